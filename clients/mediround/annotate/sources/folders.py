"""Images of a folder, or of an object store, which are asked one dialogue.

Knows what lies there. Does not know dialogues.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mediround.annotate.errors import ItemError
from mediround.annotate.items import Item, Question
from mediround.annotate.sorting import lists, names
from mediround.annotate.sources import dicom_files
from mediround.annotate.sources.annotations import Annotations, NoAnnotations
from mediround.annotate.sources.examined import ExaminedFile, Place, examined, files_below, stores_needed, uri_of
from mediround.annotate.sources.images import items_of_file, problem_item
from mediround.annotate.sources.masks import MaskFiles
from mediround.annotate.sources.omissions import Omissions
from mediround.annotate.sources.options import SourceOptions


def of_folder(folder: Path, questions: tuple[Question, ...], options: SourceOptions) -> Iterator[Item]:
    """Raises SourceError: it cannot be listed, or an extra is not installed."""
    if options.references == "seg":
        yield from _with_segmentations(folder, questions, options)
        return
    masks = MaskFiles(questions) if options.references == "masks" else None
    yield from _of_places(files_below(folder, options.omissions), masks or NoAnnotations(questions), options)


def _with_segmentations(folder: Path, questions: tuple[Question, ...], options: SourceOptions) -> Iterator[Item]:
    with dicom_files.extra_needed():
        from mediround.annotate.sources.segmentations import TreeSegmentations  # noqa: PLC0415  # as it says
    with lists() as held:
        annotations = TreeSegmentations(questions, held, options.omissions)
        for path in files_below(folder, Omissions()):  # what is wrong is counted once, below
            annotations.add(path)
        for number, path in enumerate(files_below(folder, options.omissions)):
            yield from _of_place(number, path, annotations, options)


def of_store(source: str, questions: tuple[Question, ...], options: SourceOptions) -> Iterator[Item]:
    """Raises SourceError: it cannot be listed, or the extra is not installed."""
    with stores_needed():
        from mediround.annotate.remote import files  # noqa: PLC0415  # its extra need not be installed

    def ours(folder: str) -> None:
        options.omissions.add("ours", folder)

    with names() as held:
        masks = MaskFiles(questions, lambda place: str(place) in held) if options.references else None
        if masks is not None:
            for uri in filter(masks.is_mask, files(source)):
                held.add(uri)
        yield from _of_places(files(source, ours), masks or NoAnnotations(questions), options)


def _of_places(
    places: Iterable[Place], annotations: MaskFiles | NoAnnotations, options: SourceOptions
) -> Iterator[Item]:
    for number, place in enumerate(places):
        if isinstance(annotations, MaskFiles) and annotations.is_mask(place):
            options.omissions.add("mask", uri_of(place))
        else:
            yield from _of_place(number, place, annotations, options)


def _of_place(number: int, place: Place, annotations: Annotations, options: SourceOptions) -> Iterator[Item]:
    try:
        yield from _of_file(examined(place), annotations, options)
    except ItemError as error:
        yield problem_item(error, str(number), uri_of(place))


def _of_file(file: ExaminedFile, annotations: Annotations, options: SourceOptions) -> Iterator[Item]:
    item = None
    for item in items_of_file(file, annotations, options.window):
        yield item
    if item is None:
        options.omissions.add("no_image", file.uri)
