"""Results of one image together: what several dialogues found on the same pixels.

Knows what makes pixels the same. Does not know outputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby

from mediround.annotate.items import Item
from mediround.annotate.results import Result
from mediround.annotate.rows import Row

_CASE_BYTES = 8


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
    """Of results in a manifest's order, in which items of one image stand together."""
    for key, group in groupby(results, _key):
        found = list(group)
        if key[0]:
            yield _image(key, found)


def _image(key: tuple[str, int | None, str], found: Sequence[Result]) -> Image:
    name = blake2b(json.dumps(key).encode(), digest_size=_CASE_BYTES).hexdigest()
    answered = [each for each in found if each.answered]
    rows = tuple(row for each in answered for row in each.rows)
    item_ids = tuple(each.item.item_id for each in answered)
    return Image(name, found[0].item, item_ids, len(answered) == len(found), rows)


def _key(result: Result) -> tuple[str, int | None, str]:
    item = result.item
    return "" if item.problem else item.image_id, item.frame, item.window
