"""What may be wrong with the rows of one item, taken by themselves, beside their manifest, and beside their run.

Knows rows. Does not know files, or how many items there are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from hashlib import blake2b
from typing import Literal, TypeAlias

import numpy as np

from mediround import rle
from mediround.annotate.annotating import blank_rows
from mediround.annotate.current import ItemRows
from mediround.annotate.items import Item
from mediround.annotate.job import Run
from mediround.annotate.rows import Row
from mediround.masks import Bits, digest

Fault: TypeAlias = Literal[
    "other_run", "rounds", "dialogue", "model", "status", "reference", "values", "mask", "measures", "mask_digest"
]
WORDS: dict[str, str] = {
    "other_run": "rows of another run",
    "rounds": "not every round exactly once, in order",
    "dialogue": "not the manifest's image or questions",
    "model": "of another model than the run's",
    "status": "the status does not go with the rest of its row, or of its item",
    "reference": "refers to a round that has no mask",
    "values": "a score or probability that is not between 0 and 1",
    "mask": "run lengths that do not make a mask of the size stated",
    "measures": "another area or box than the mask's",
    "mask_digest": "another digest than the mask's",
}
_MOST_PIXELS = 1 << 28
"""Of a mask: what is decoded is bounded by what is stated."""


def planned(item: Item) -> bytes:
    """What an item's rows must be, whatever is found: two of equal dialogues on one image are equal."""
    return _planned(tuple(blank_rows(item, "")))


def faults(rows: ItemRows, run: Run, expected: bytes | None) -> set[Fault]:
    """All kinds; none: nothing is wrong.

    Args:
        expected: ``planned`` of its item; None: the manifest has it no more.
    """
    found: set[Fault] = set()
    if any(row.run_key != run.key for row in rows):
        found.add("other_run")
    if [row.round for row in rows] != list(range(max(1, rows[0].rounds))):
        found.add("rounds")  # what follows counts on it
        return found
    if expected is not None and _planned(rows) != expected:
        found.add("dialogue")
    if any(row.model_digest not in ("", run.identity.model_digest) for row in rows):
        found.add("model")
    if len({row.status == "failed" for row in rows}) > 1 or not all(map(_is_consistent, rows)):
        found.add("status")
    if not all(_refers_well(row, rows) for row in rows):
        found.add("reference")
    if not all(_in_range(row.score) and _in_range(row.seg_probability) for row in rows):
        found.add("values")
    for row in rows:
        found |= set(_mask_faults(row))
    return found


def decoded(counts: str | None, height: int, width: int) -> Bits | None:
    """A row's mask, bool (H, W); None: it has none. Raises ValueError for what is no mask of its size."""
    if counts is None:
        return None
    if not (height > 0 and width > 0 and height * width <= _MOST_PIXELS):
        raise ValueError("a mask must have a size")
    return rle.decode(counts.encode(), height, width)


def _planned(rows: ItemRows) -> bytes:
    values = [
        [row.image_id, row.rounds, row.round, row.name, row.label, row.question, row.refer_to, row.reference]
        for row in rows
    ]
    return blake2b(json.dumps(values).encode(), digest_size=16).digest()


def _is_consistent(row: Row) -> bool:
    has_mask = row.status == "mask"
    if has_mask != (row.counts is not None) or has_mask != bool(row.mask_digest):
        return False
    if (row.status == "failed") != bool(row.error_code):
        return False
    answered = row.status in ("mask", "no_mask")
    return answered == bool(row.model_digest) and row.attempts >= answered


def _refers_well(row: Row, rows: ItemRows) -> bool:
    if row.refer_to is None:
        return row.reference in ("", "given") and row.status != "not_asked"
    if row.reference != "round" or not 0 <= row.refer_to < row.round:
        return False
    referred = rows[row.refer_to].status
    if row.status in ("mask", "no_mask"):
        return referred == "mask"
    return row.status == "failed" or referred in ("no_mask", "not_asked")


def _in_range(value: float | None) -> bool:
    return value is None or (math.isfinite(value) and 0 <= value <= 1)


def _mask_faults(row: Row) -> Iterator[Fault]:
    try:
        mask = decoded(row.counts, row.height, row.width)
    except ValueError:
        yield "mask"
        return
    if _measures(mask) != (row.area, row.x_min, row.y_min, row.x_max, row.y_max):
        yield "measures"
    if mask is not None and digest(mask).hex() != row.mask_digest:
        yield "mask_digest"


def _measures(mask: Bits | None) -> tuple[int, int | None, int | None, int | None, int | None]:
    if mask is None or not mask.any():
        return 0, None, None, None, None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(np.count_nonzero(mask)), int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
