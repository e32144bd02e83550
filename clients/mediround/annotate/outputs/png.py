"""Masks as PNG files of the image's size, white where they are set.

Knows names of files, which hold digits and the question's name alone. Does not know what masks show.
"""

from __future__ import annotations

from collections.abc import Iterable

from mediround import rle
from mediround._png import png
from mediround.annotate.outputs.kept import Export
from mediround.annotate.results import Result


def write_masks(export: Export, found: Iterable[Result]) -> int:
    """``ab/abcd…-02-NAME.png`` for each round that has a mask; how many. Raises JobError."""
    count = 0
    for result in export.of(found):
        for row in result.rows:
            if row.counts is not None:
                path = export.place / row.item_id[:2] / f"{row.item_id}-{row.round:02}-{row.name}.png"
                pixels = rle.decode(row.counts.encode(), row.height, row.width)
                export.keep(path, png(pixels), [row.item_id])
                count += 1
    return count
