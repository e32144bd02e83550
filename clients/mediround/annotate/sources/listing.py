"""A source's items: a folder of images, a table of images and dialogues, an MR-MedSeg data set, an archive.

Knows which source is meant by what is given, and that items of one image come together. Does not know manifests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mediround.annotate.errors import ItemError, SourceError
from mediround.annotate.items import Item, Question, item_id
from mediround.annotate.loading import read
from mediround.annotate.manifest import item_of, row_of
from mediround.annotate.sorting import grouped
from mediround.annotate.sources import archive, dicom_files, tables
from mediround.annotate.sources.dialogues import of_json, of_template
from mediround.annotate.sources.examined import ExaminedFile, examined, examined_content, files_below, uri_of
from mediround.medseg import DataError, Dialogue, parse, read_items
from mediround.templates import Template, TemplateError, load

Templates: TypeAlias = dict[str, tuple[Question, ...]]
"""Dialogues by their templates' names."""
_TABLES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is listed.

    Attributes:
        template: the dialogue of images that have none of their own.
        root: where a table's paths begin; None: the table's folder.
        window: of all images, as ``mediround segment --window`` takes it; empty: what the image says.
        first: names of items whose images come before all others.
        listed: is told how many items are listed so far.
    """

    template: Template | None = None
    root: Path | None = None
    window: str = ""
    first: frozenset[str] = frozenset()
    listed: Callable[[int], None] = lambda _: None


def items_of(source: str, options: SourceOptions) -> Iterator[Item]:
    """Every item once, those of one image together; sorted on disk.

    Raises:
        SourceError: the source is not there, or not in a form that is known.
    """
    return _together(_once(_items(source, options)), options)


def _items(source: str, options: SourceOptions) -> Iterator[Item]:
    if source.startswith(("http://", "https://")):
        if options.template is None:
            raise SourceError("--template must name the dialogue that is asked of an archive's images")
        return archive.items(source, of_template(options.template), options.window)
    if "://" in source:
        if options.template is None:
            raise SourceError("--template must name the dialogue that is asked of a store's images")
        return _of_store(source, options.template, options)
    path = Path(source)
    if path.is_dir():
        if options.template is None:
            raise SourceError("--template must name the dialogue that is asked of a folder's images")
        return _of_folder(path, options.template, options)
    if not path.is_file():
        raise SourceError("SOURCE must be a folder, or a .csv, .jsonl, .parquet or .json file that can be read")
    if path.suffix in _TABLES:
        return _of_table(path, options)
    if path.suffix == ".json":
        return _of_medseg(path, options)
    raise SourceError(f"SOURCE must end in one of {', '.join((*_TABLES, '.json'))}, or be a folder")


def _once(items: Iterable[Item]) -> Iterator[Item]:
    """Each item once: a file that lies in two places is one image."""
    seen: set[bytes] = set()
    for item in items:
        name = bytes.fromhex(item.item_id)
        if name not in seen:
            seen.add(name)
            yield item


def _together(items: Iterable[Item], options: SourceOptions) -> Iterator[Item]:
    """Those of one image, so that they meet in a server's caches."""

    def keyed() -> Iterator[tuple[str, bool, str]]:
        for count, item in enumerate(items, start=1):
            options.listed(count)
            yield item.image_id or item.item_id, item.item_id in options.first, json.dumps(row_of(item))

    for _, text in grouped(keyed()):
        yield item_of(json.loads(text))


def _of_folder(folder: Path, template: Template, options: SourceOptions) -> Iterator[Item]:
    questions = of_template(template)
    for number, path in enumerate(files_below(folder)):
        try:
            file = examined(path)
        except ItemError as error:
            yield _problem(error, str(number), "" if not path.name else uri_of(path))
            continue
        if file.content != "other":
            yield from _of_file(path, file, questions, options.window)


def _of_store(source: str, template: Template, options: SourceOptions) -> Iterator[Item]:
    try:
        from mediround.annotate.remote import files  # noqa: PLC0415  # its extra need not be installed
    except ModuleNotFoundError as missing:
        words = "object stores need fsspec: in the repository, pip install './clients[annotate,s3]'"
        raise SourceError(words) from missing
    questions = of_template(template)
    for number, uri in enumerate(files(source)):
        try:
            content = read(uri)
            file = examined_content(uri, content)
            if file.content != "other":
                yield from _of_file(content, file, questions, options.window)
        except ItemError as error:
            yield _problem(error, str(number), uri)


def _of_table(path: Path, options: SourceOptions) -> Iterator[Item]:
    root = options.root or path.parent
    templates: Templates = {}
    if options.template is not None:
        templates[""] = of_template(options.template)
    for number, row in enumerate(tables.rows(path)):
        try:
            image = row.get("image", "")
            if not image:
                raise ItemError("NO_IMAGE", "the row must name an image")
            questions = _dialogue(row, templates, root)
            frame = tables.frame_of(row)
            file = examined(root / image)
            found = list(_of_file(root / image, file, questions, row.get("window", options.window), frame))
            if not found:
                raise ItemError("NO_IMAGE", "the file is no PNG, JPEG, TIFF or DICOM image")
            yield from found
        except ItemError as error:
            yield _problem(error, str(number), "")


def _dialogue(row: dict[str, str], templates: Templates, root: Path) -> tuple[Question, ...]:
    if row.get("dialogue"):
        return of_json(row["dialogue"], lambda path: root / path)
    name = row.get("template", "")
    if name not in templates:
        if not name:
            raise ItemError("BAD_DIALOGUE", "the row must have a dialogue or a template, or --template be given")
        try:
            templates[name] = of_template(load(root / name if name.endswith(".toml") else name))
        except (TemplateError, OSError) as error:
            raise ItemError(
                "BAD_DIALOGUE", "the row's template cannot be read: see `mediround segment`"
            ) from error
    return templates[name]


def _of_medseg(path: Path, options: SourceOptions) -> Iterator[Item]:
    root = options.root or path.parent
    try:
        found = read_items(path)
    except DataError as error:
        raise SourceError(
            "the data set is not in the MR-MedSeg form: a list of items, as docs/evaluation.md says"
        ) from error
    for number, values in enumerate(found):
        try:
            dialogue = parse(values)
            file = examined(root / dialogue.image)
            yield from _of_file(root / dialogue.image, file, _asked(dialogue, root), options.window)
        except DataError as error:
            yield _problem(ItemError("BAD_DIALOGUE", f"the item {error}"), str(number), "")
        except ItemError as error:
            yield _problem(error, str(number), "")


def _asked(dialogue: Dialogue, root: Path) -> tuple[Question, ...]:
    return tuple(
        Question(
            name=f"round-{index}",
            label=f"round {index}",
            question=each.question,
            refer_to=each.refer_to,
            answer=each.answer,
            truth=uri_of(root / each.target),
        )
        for index, each in enumerate(dialogue.rounds)
    )


def _of_file(
    path: Path | bytes, file: ExaminedFile, questions: tuple[Question, ...], window: str, frame: int | None = None
) -> Iterator[Item]:
    if file.content == "dicom":
        for part in dicom_files.frames_of(path, frame):
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
        named = item_id(file.sha256, None, "", questions)
        yield Item(named, file.sha256, "picture", file.uri, questions, sha256=file.sha256, size=file.size)


def _problem(error: ItemError, place: str, uri: str) -> Item:
    """An item that is not asked, and fails with this reason. ``place``: what tells it from others."""
    named = item_id("", None, "", (), discriminator=f"{error.code} {place}")
    return Item(named, "", "picture", uri, (), problem=f"{error.code}: {error}")
