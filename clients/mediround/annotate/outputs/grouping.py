"""Results of one image together: what several dialogues found on the same pixels.

Knows what makes pixels the same. Does not know outputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import TypeAlias

from mediround.annotate.items import Item
from mediround.annotate.results import Result
from mediround.annotate.rows import Row

_CASE_BYTES = 8
_Key: TypeAlias = tuple[str, int | None, str]
"""Image, frame and window."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image, or one frame, as one window shows it.

    Attributes:
        name: names it by its content: 16 hex digits.
        item: the first of its items.
        item_ids: of those that are finished, none of them failed.
        complete: whether all its items are finished, none of them failed.
        rows: of all its items that are.
    """

    name: str
    item: Item
    item_ids: tuple[str, ...]
    complete: bool
    rows: tuple[Row, ...]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, pixels; None: no round has a mask that says so."""
        return next(((row.height, row.width) for row in self.rows if row.height), None)


def images(results: Iterable[Result]) -> Iterator[Image]:
    """Of results in a manifest's order, in which a file's items stand together: its frames and windows, each once,
    in any order. Holds one file's results.
    """
    asked = (result for result in results if not result.item.problem)
    for _, of_file in groupby(asked, lambda result: result.item.image_id):
        shown: dict[_Key, list[Result]] = {}
        for result in of_file:
            shown.setdefault(_key(result), []).append(result)
        for key, found in shown.items():
            yield _image(key, found)


def _image(key: _Key, found: Sequence[Result]) -> Image:
    name = blake2b(json.dumps(key).encode(), digest_size=_CASE_BYTES).hexdigest()
    answered = [each for each in found if each.answered]
    rows = tuple(row for each in answered for row in each.rows)
    item_ids = tuple(each.item.item_id for each in answered)
    return Image(name, found[0].item, item_ids, len(answered) == len(found), rows)


def _key(result: Result) -> _Key:
    return result.item.image_id, result.item.frame, result.item.window
