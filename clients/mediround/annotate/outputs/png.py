"""Masks as PNG files of the image's size, white where they are set.

Knows names of files, which hold digits and the question's name alone. Does not know what masks show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mediround import rle
from mediround._png import png
from mediround.annotate.errors import JobError
from mediround.annotate.outputs.kept import Export
from mediround.annotate.results import Result
from mediround.annotate.rows import Row

_ITEM, _QUESTION = re.compile(r"[0-9a-f]{32}"), re.compile(r"[a-z0-9-]{1,64}")
"""Their names, before they become part of a file's: the index may be anybody's."""


def write_masks(export: Export, found: Iterable[Result]) -> int:
    """``ab/abcd…-02-NAME.png`` for each round that has a mask; how many. Raises JobError."""
    count = 0
    for result in export.of(found):
        for row in result.rows:
            if row.counts is not None:
                pixels = rle.decode(row.counts.encode(), row.height, row.width)
                export.keep(_place(export, row), png(pixels), [row.item_id])
                count += 1
    return count


def _place(export: Export, row: Row) -> Path:
    if not _ITEM.fullmatch(row.item_id) or not _QUESTION.fullmatch(row.name):
        raise JobError("the index has a name that no plan gives: `mediround annotate verify` says of which item")
    return export.place / row.item_id[:2] / f"{row.item_id}-{row.round:02}-{row.name}.png"
