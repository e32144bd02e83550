"""Rows of a table as items: which image, and which dialogue, whole in one row or a question a row.

Knows the columns. Does not know the table's form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

from mediround.annotate.errors import ItemError
from mediround.annotate.items import Item, Question
from mediround.annotate.sorting import grouped
from mediround.annotate.sources import tables
from mediround.annotate.sources.annotations import NoAnnotations
from mediround.annotate.sources.beside import Searched
from mediround.annotate.sources.dialogues import (
    MOST_QUESTIONS,
    is_unicode,
    of_json,
    of_template,
    of_values,
    window_of,
)
from mediround.annotate.sources.examined import Place, bytes_of, examined, place_of, uri_of
from mediround.annotate.sources.images import items_of_file, problem_item
from mediround.annotate.sources.options import SourceOptions
from mediround.templates import Template, TemplateError, load, loads

Row: TypeAlias = dict[str, str]
Numbered: TypeAlias = tuple[int, Row]
"""A row, and its index in the table."""
Asked: TypeAlias = tuple[tuple[Question, ...], str]
"""A dialogue, and the window of its template, empty without one."""
_WHOLE = ("dialogue", "template")
_OF_A_QUESTION = ("question", "name", "label", "answer", "mode", "segment", "truth")
_OF_AN_IMAGE = ("image", "frame", "window")
_OF_FILES = ("image", "reference", "truth")
_MOST_DIGITS = 4
_TEMPLATES_HELD = 64


def items(path: Path, options: SourceOptions) -> Iterator[Item]:
    """Raises SourceError: the table cannot be read."""
    root = path.parent if options.root is None else options.root
    with Searched.of(root, options.omissions) as searched:
        dialogues = _Dialogues(root, options, searched)
        for rows in _gathered(tables.rows(path)):
            yield from _of_rows(rows, dialogues)
        searched.rest()


def _gathered(rows: Iterator[Row]) -> Iterator[Iterator[Numbered]]:
    """Rows of one dialogue, or of one id, together; sorted on disk."""
    keyed = ((_key(row, number), False, json.dumps((number, row))) for number, row in enumerate(rows))
    for _, group in groupby(grouped(keyed), itemgetter(0)):
        yield (json.loads(text) for _, text in group)


def _key(row: Row, number: int) -> str:
    if row.get("id"):
        return json.dumps(["id", row["id"]])
    if _is_question(row):
        return json.dumps([row.get(name, "") for name in _OF_AN_IMAGE])
    return str(number)


def _is_question(row: Row) -> bool:
    return bool(row.get("question")) and not any(row.get(name) for name in _WHOLE)


def _of_rows(rows: Iterator[Numbered], dialogues: _Dialogues) -> Iterator[Item]:
    number, first = next(rows)
    if _is_question(first):
        questions = [first, *(row for _, row in islice(rows, MOST_QUESTIONS))]  # one too many is refused
        yield from _of_one(number, first, questions, dialogues)
        for _, row in rows:
            dialogues.name(row)
        return
    yield from _of_one(number, first, [], dialogues)
    for other, row in rows:
        if row == first:  # which is then listed again, and counted
            yield from _of_one(other, row, [], dialogues)
        else:
            words = "rows of one id must be questions about one image, or the id must be in one row"
            yield _failed(ItemError("DUPLICATE_ID", words), other, row, dialogues)


def _of_one(number: int, first: Row, questions: Sequence[Row], dialogues: _Dialogues) -> Iterator[Item]:
    """``questions``: the rows of its dialogue; none where the first has it whole."""
    try:
        for row in questions or [first]:
            _check(row)
        for item in _found(first, questions, dialogues):
            yield replace(item, source_id=first.get("id", ""))
    except ItemError as error:
        for row in questions:
            dialogues.name(row)
        yield _failed(error, number, first, dialogues)


def _check(row: Row) -> None:
    if tables.FAULT in row:
        raise ItemError("BAD_DIALOGUE", row[tables.FAULT])
    if not _may_be_written(row):
        raise ItemError("BAD_DIALOGUE", "the row must be Unicode: JSON may hold half of a surrogate pair")


def _may_be_written(row: Row) -> bool:
    return all(map(is_unicode, row.values()))


def _found(first: Row, questions: Sequence[Row], dialogues: _Dialogues) -> list[Item]:
    if not first.get("image"):
        raise ItemError("NO_IMAGE", "the row must name an image")
    image = dialogues.place(first["image"])
    asked, window = dialogues.of_questions(questions) if questions else dialogues.of_row(first)
    window = first.get("window") or dialogues.window or window
    file, frame = examined(image), tables.frame_of(first)
    found = list(items_of_file(file, NoAnnotations(asked), window, frame))
    if not found:
        raise ItemError("NO_IMAGE", "the file is no PNG, JPEG, TIFF or DICOM image")
    return found


def _failed(error: ItemError, number: int, row: Row, dialogues: _Dialogues) -> Item:
    dialogues.name(row)
    known = row if _may_be_written(row) else {}
    failed = problem_item(error, str(number), dialogues.uri(known))
    return replace(failed, source_id=known.get("id", ""))


class _Dialogues:
    """What rows name: files below a root, and dialogues.

    Attributes:
        window: of all images that have none of their own; empty: their template's.
    """

    def __init__(self, root: Place, options: SourceOptions, searched: Searched) -> None:
        self._root, self._searched = root, searched
        self.window = options.window
        self._default = None if options.template is None else _asked(options.template)
        self._template = lru_cache(_TEMPLATES_HELD)(self._loaded)

    def place(self, name: str) -> Place:
        """Where a file lies, which then has a row. Raises ItemError."""
        place = place_of(self._root, name)
        self._searched.name(place)
        return place

    def name(self, row: Row) -> None:
        """Its files have a row, though it is asked nothing."""
        for name in filter(None, map(row.get, _OF_FILES)):
            with suppress(ItemError):
                self.place(name)

    def uri(self, row: Row) -> str:
        """Of the row's image; empty without one that may be read."""
        try:
            return uri_of(place_of(self._root, row["image"])) if row.get("image") else ""
        except ItemError:
            return ""

    def of_row(self, row: Row) -> Asked:
        """The whole dialogue. Raises ItemError."""
        if row.get("dialogue"):
            if row.get("question"):
                raise ItemError("BAD_DIALOGUE", "the row must have a question or a dialogue, not both")
            return of_json(row["dialogue"], self.place), ""
        if row.get("question"):
            raise ItemError("BAD_DIALOGUE", "the row must have a question or a template, not both")
        if row.get("template"):
            return self._template(row["template"])
        if self._default is None:
            raise ItemError("BAD_DIALOGUE", "the row must have a dialogue or a template, or --template be given")
        return self._default

    def of_questions(self, rows: Sequence[Row]) -> Asked:
        """The dialogue of which each row is a question. Raises ItemError."""
        if any(row.get(name) != rows[0].get(name) for row in rows for name in _OF_AN_IMAGE):
            raise ItemError("DUPLICATE_ID", "rows of one id must name one image, frame and window")
        if not all(_is_question(row) for row in rows):
            raise ItemError(
                "BAD_DIALOGUE", "rows of one id must each have a question, and no dialogue or template"
            )
        return of_values([_values(row) for row in _in_order(rows)], self.place), ""

    def _loaded(self, name: str) -> Asked:
        try:
            if "/" not in name and not name.endswith(".toml"):
                return _asked(load(name))
            return _asked(loads(bytes_of(place_of(self._root, name)), "template"))
        except TemplateError as error:
            words = "the row's template cannot be read: see `mediround segment`"
            raise ItemError("BAD_DIALOGUE", words) from error


def _asked(template: Template) -> Asked:
    return of_template(template), window_of(template)


def _in_order(rows: Sequence[Row]) -> Sequence[Row]:
    if not any(row.get("round") for row in rows):
        return rows
    places = {row.get("round", ""): row for row in rows}
    if places.keys() != {str(number) for number in range(len(rows))}:
        raise ItemError("BAD_DIALOGUE", "round must be 0, 1, ... in the rows of one dialogue, each once")
    return [places[str(number)] for number in range(len(rows))]


def _values(row: Row) -> dict[str, object]:
    """As ``dialogue`` has them: a reference that is a number is an earlier round."""
    values: dict[str, object] = {name: row[name] for name in _OF_A_QUESTION if row.get(name)}
    reference = row.get("reference", "")
    if reference.isdecimal() and len(reference) <= _MOST_DIGITS:
        return values | {"refer_to": int(reference)}
    return values | ({"reference": reference} if reference else {})
