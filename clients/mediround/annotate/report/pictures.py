"""An item's picture for the contact sheet: a thumbnail a round, its mask tinted, what it refers to outlined.

Knows pixels and JPEG. Reads the source again, which must be what was planned. Does not know pages.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from mediround._overlay import Rectangle, drawn, pixels_of
from mediround.annotate.current import ItemRows
from mediround.annotate.errors import ItemError
from mediround.annotate.faults import decoded
from mediround.annotate.items import Item
from mediround.annotate.loading import load
from mediround.annotate.rows import Row
from mediround.errors import MediRoundError
from mediround.image import ChosenFrame
from mediround.masks import Bits

SIDE = 160
"""Of a thumbnail, pixels at most."""
_MOST_ROUNDS = 8
_QUALITY = 70


def strip(item: Item, rows: ItemRows) -> bytes | None:
    """JPEG: at most eight rounds side by side. None: the source is gone, another one, or cannot be shown."""
    try:
        loaded = load(item)
        image = loaded.image
        if not isinstance(image, ChosenFrame) and (loaded.frame is not None or loaded.window is not None):
            image = ChosenFrame(image, loaded.frame, loaded.window)
        base = _small(pixels_of(image))
        shown = np.concatenate(list(_thumbnails(base, rows[:_MOST_ROUNDS])), axis=1)
    except (ItemError, MediRoundError, OSError, ValueError):
        return None
    held = io.BytesIO()
    Image.fromarray(shown).save(held, "JPEG", quality=_QUALITY)
    return held.getvalue()


def _thumbnails(base: npt.NDArray[np.uint8], rows: Sequence[Row]) -> Iterator[npt.NDArray[np.uint8]]:
    for row in rows:
        mask = decoded(row.counts, row.height, row.width)
        outlined = None if row.refer_to is None else _box(rows[row.refer_to], base.shape[:2])
        yield drawn(base, None if mask is None else _nearest(mask, base.shape[:2]), outlined)


def _small(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def _nearest(mask: Bits, shape: tuple[int, ...]) -> Bits:
    rows = np.arange(shape[0]) * mask.shape[0] // shape[0]
    columns = np.arange(shape[1]) * mask.shape[1] // shape[1]
    return np.asarray(mask[np.ix_(rows, columns)])


def _box(row: Row, shape: tuple[int, ...]) -> Rectangle | None:
    if row.x_min is None or row.y_min is None or row.x_max is None or row.y_max is None:
        return None
    down, across = shape[0] / row.height, shape[1] / row.width
    ends = row.x_min * across, row.y_min * down, row.x_max * across, row.y_max * down
    x_min, y_min, x_max, y_max = (int(end) for end in ends)
    return x_min, y_min, x_max, y_max
