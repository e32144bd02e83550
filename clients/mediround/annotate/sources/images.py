"""Items of an image file: one of a picture, one of each frame of a DICOM object.

Knows what of a file becomes an item. Does not know where files or dialogues come from.
"""

from __future__ import annotations

from collections.abc import Iterator

from mediround.annotate.errors import ItemError
from mediround.annotate.items import Item, item_id
from mediround.annotate.sources import dicom_files
from mediround.annotate.sources.annotations import Annotations
from mediround.annotate.sources.examined import ExaminedFile


def items_of_file(
    file: ExaminedFile, annotations: Annotations, window: str, frame: int | None = None
) -> Iterator[Item]:
    """None of a file that is no image. Raises ItemError: it cannot be read, or has no such frame."""
    if file.content == "dicom":
        for part in dicom_files.frames_of(file.readable, frame):
            questions = annotations.questions(file, part)
            named = item_id(file.sha256, part.frame, window, questions)
            yield Item(
                item_id=named,
                image_id=file.sha256,
                kind="dicom",
                uri=file.uri,
                questions=questions,
                sha256=file.sha256,
                size=file.size,
                frame=part.frame,
                window=window,
                study=part.study,
                series=part.series,
                instance=part.instance,
            )
    elif file.content == "picture":
        questions = annotations.questions(file, None)
        named = item_id(file.sha256, None, "", questions)
        yield Item(named, file.sha256, "picture", file.uri, questions, sha256=file.sha256, size=file.size)


def problem_item(error: ItemError, place: str, uri: str) -> Item:
    """An item that is not asked, and fails with this reason. ``place``: what tells it from others."""
    named = item_id("", None, "", (), discriminator=f"{error.code} {place}")
    return Item(named, "", "picture", uri, (), problem=f"{error.code}: {error}")
