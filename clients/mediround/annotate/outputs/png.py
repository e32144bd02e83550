"""Masks as PNG files of the image's size, white where they are set.

Knows names of files, which hold digits and the question's name alone. Does not know what masks show.
"""

from __future__ import annotations

from pathlib import Path

from mediround import rle
from mediround._png import png
from mediround.annotate.outputs.kept import keep
from mediround.annotate.results import Result


def write_masks(folder: Path, result: Result) -> int:
    """``folder/ab/abcd…-02-NAME.png`` for each round that has a mask; how many. Raises JobError."""
    count = 0
    for row in result.rows:
        if row.counts is not None:
            name = f"{row.item_id}-{row.round:02}-{row.name}.png"
            keep(folder / row.item_id[:2] / name, png(rle.decode(row.counts.encode(), row.height, row.width)))
            count += 1
    return count
