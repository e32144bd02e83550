"""Pictures of an item: a thumbnail a round with its mask tinted and its reference outlined; two runs side by side.

Knows pixels and JPEG. Reads the source again, which must be what was planned. Does not know pages.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from mediround._overlay import Rectangle, drawn, pixels_of
from mediround.annotate.compare.pairs import Pair
from mediround.annotate.current import ItemRows
from mediround.annotate.errors import ItemError, JobError
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
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An item's image, small.

    Attributes:
        pixels: (H, W, 3), of ``SIDE`` at most.
        given: boxes of the archive's masks, by the round that is about them.
    """

    pixels: Pixels
    given: dict[int, Rectangle] = field(default_factory=dict)


def thumbnail(item: Item) -> Thumbnail | None:
    """None: the source is gone, another one, or cannot be shown."""
    if item.problem:
        return None
    try:
        loaded = load(item)
        image = loaded.image
        if not isinstance(image, ChosenFrame) and (loaded.frame is not None or loaded.window is not None):
            image = ChosenFrame(image, loaded.frame, loaded.window)
        pixels = _small(pixels_of(image))
        boxes = {number: _around(mask, pixels.shape[:2]) for number, mask in loaded.references.items()}
        return Thumbnail(pixels, {number: box for number, box in boxes.items() if box is not None})
    except (ItemError, MediRoundError, OSError, ValueError):
        return None


def strip(base: Thumbnail, rows: ItemRows) -> bytes | None:
    """JPEG: at most eight rounds side by side. None: a mask cannot be read."""
    try:
        return _jpeg(list(_rounds(base, rows[:_MOST_ROUNDS])))
    except ValueError:
        return None


def side_by_side(base: Thumbnail, pair: Pair) -> bytes | None:
    """JPEG: the earlier run's mask at the left, the later one's at the right. None: a mask cannot be read."""
    try:
        return _jpeg([_tinted(base.pixels, side.mask()) for side in (pair.earlier, pair.later)])
    except (JobError, ValueError):
        return None


def _rounds(base: Thumbnail, rows: Sequence[Row]) -> Iterator[Pixels]:
    for at, row in enumerate(rows):
        mask = decoded(row.counts, row.height, row.width)
        outlined = base.given.get(at)
        if row.refer_to is not None and 0 <= row.refer_to < at:
            outlined = _box(rows[row.refer_to], base.pixels.shape[:2])
        yield _tinted(base.pixels, mask, outlined)


def _tinted(base: Pixels, mask: Bits | None, outlined: Rectangle | None = None) -> Pixels:
    return drawn(base, None if mask is None else _nearest(mask, base.shape[:2]), outlined)


def _jpeg(pictures: Sequence[Pixels]) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.concatenate(pictures, axis=1)).save(held, "JPEG", quality=_QUALITY)
    return held.getvalue()


def _small(pixels: Pixels) -> Pixels:
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def _nearest(mask: Bits, shape: tuple[int, ...]) -> Bits:
    rows = np.arange(shape[0]) * mask.shape[0] // shape[0]
    columns = np.arange(shape[1]) * mask.shape[1] // shape[1]
    return np.asarray(mask[np.ix_(rows, columns)])


def _around(mask: Bits, shape: tuple[int, ...]) -> Rectangle | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    ends = int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
    return _scaled(ends, mask.shape, shape)


def _box(row: Row, shape: tuple[int, ...]) -> Rectangle | None:
    if row.x_min is None or row.y_min is None or row.x_max is None or row.y_max is None:
        return None
    return _scaled((row.x_min, row.y_min, row.x_max, row.y_max), (row.height, row.width), shape)


def _scaled(box: Rectangle, size: tuple[int, ...], shape: tuple[int, ...]) -> Rectangle | None:
    if not all(size):
        return None
    down, across = shape[0] / size[0], shape[1] / size[1]
    x_min, y_min, x_max, y_max = box
    return int(x_min * across), int(y_min * down), int(x_max * across), int(y_max * down)
