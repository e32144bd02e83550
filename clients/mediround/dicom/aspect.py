"""Pixels that are not square, made so for the image and undone in the mask.

Knows a frame's pixel spacing or aspect ratio, and one axis that is stretched. Does not know windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from mediround.dicom.attributes import bad, group, numbers
from mediround.dicom.errors import TooLarge
from mediround.dicom.limits import MAX_FRAME_PIXELS, MAX_PIXEL_RATIO

Bits = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]

_BLOCK = 1 << 20
"""Samples that are stretched at once."""
_SQUARE = 1e-3
"""How far from 1 a ratio may be: less than a pixel in a thousand."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The frame's own pixels (rows, columns) and the image's, which are square: one axis has more of them.

    Attributes:
        stored: (rows, columns) of the frame.
        shown: (height, width) of the image that is sent.
    """

    stored: tuple[int, int]
    shown: tuple[int, int]

    @property
    def square(self) -> bool:
        return self.stored == self.shown

    def stretched(self, pixels: Pixels) -> Pixels:
        """(rows, columns, ...) to (height, width, ...): linear between the centers of pixels."""
        for axis in (0, 1):
            pixels = _stretched(pixels, axis, self.shown[axis])
        return pixels

    def from_stored(self, mask: Bits) -> Bits:
        """(rows, columns) to (height, width): each pixel takes the one that its center lies in."""
        down, across = (_sources(n, m) for n, m in zip(self.stored, self.shown, strict=True))
        return mask[np.ix_(down, across)]

    def to_stored(self, mask: Bits) -> Bits:
        """(height, width) to (rows, columns): undoes ``from_stored`` exactly."""
        down, across = (_sources(m, n) for n, m in zip(self.stored, self.shown, strict=True))
        return mask[np.ix_(down, across)]


def grid(header: Dataset, index: int, rows: int, columns: int) -> Grid:
    """Raises BadAttribute, TooLarge."""
    ratio = _ratio(header, index)
    if abs(ratio - 1) < _SQUARE:
        return Grid((rows, columns), (rows, columns))
    shown = (round(rows * ratio), columns) if ratio > 1 else (rows, round(columns / ratio))
    if shown[0] * shown[1] > MAX_FRAME_PIXELS:
        raise TooLarge(f"a frame must have at most {MAX_FRAME_PIXELS} pixels, once they are square")
    return Grid((rows, columns), shown)


def _ratio(header: Dataset, index: int) -> float:
    """A pixel's height over its width, from the first of these attributes that says it: archives have spacings of
    0, which say nothing.
    """
    places = {
        "PixelSpacing": group(header, "PixelMeasuresSequence", index),
        "ImagerPixelSpacing": header,
        "NominalScannedPixelSpacing": header,
        "PixelAspectRatio": header,
    }
    for keyword, place in places.items():
        found = numbers(place, keyword)
        if len(found) != 2 or min(found) <= 0:
            continue
        if max(found) > MAX_PIXEL_RATIO * min(found):
            raise bad(keyword, f"must be two numbers, one at most {MAX_PIXEL_RATIO} times the other")
        return found[0] / found[1]
    return 1.0


def _sources(count: int, wanted: int) -> npt.NDArray[np.int64]:
    """For each of ``wanted`` pixels along an axis, which of ``count`` its center lies in."""
    return (2 * np.arange(wanted, dtype=np.int64) + 1) * count // (2 * wanted)


def _stretched(pixels: Pixels, axis: int, wanted: int) -> Pixels:
    count = pixels.shape[axis]
    if count == wanted:
        return pixels
    along = np.moveaxis(pixels, axis, 0)
    stretched = np.empty((wanted, *along.shape[1:]), np.uint8)
    step = max(_BLOCK * count // pixels.size, 1)
    for start in range(0, wanted, step):
        target = np.arange(start, min(start + step, wanted))
        place = np.clip((target + 0.5) * count / wanted - 0.5, 0, count - 1)
        below = np.minimum(place.astype(np.int64), max(count - 2, 0))
        share = (place - below).astype(np.float32).reshape(-1, *[1] * (along.ndim - 1))
        low = along[below].astype(np.float32)
        high = along[np.minimum(below + 1, count - 1)]
        stretched[start : start + step] = np.rint(low + (high - low) * share)
    return np.moveaxis(stretched, 0, axis)
