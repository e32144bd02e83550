"""COCO's compressed run lengths, byte for byte as COCO's own tools write them.

Knows the format alone: runs of unset and set pixels in turn, beginning with unset ones, column by column;
from the fourth run on a run is stored as its difference from the run two before it; numbers are cut into
groups of five bits, the lowest first, bit 5 meaning "more follows", plus 48. Does not know messages or images.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.bool_]
_Integers = npt.NDArray[np.int64]

_MAX_GROUPS = 7
"""Five bits each: enough for any difference of runs of an image with fewer than 2**32 pixels."""


class MalformedRle(ValueError):
    """The bytes are not a mask of the size named; do not use any part of it."""


def encode(mask: Bits) -> bytes:
    """Encode a mask, bool (H, W), with H and W at least 1. Raises ValueError for any other array."""
    check(mask)
    return _encoded(mask, 0, 0, *mask.shape)


def encode_part(part: Bits, top: int, left: int, height: int, width: int) -> bytes:
    """Encode a mask of ``height`` and ``width`` of which all that is set lies in ``part``, bool (h, w), whose
    place in it is given: what lies beside it costs nothing.
    """
    below, right = height - top - part.shape[0], width - left - part.shape[1]
    margins = [(min(1, top), min(1, below)), (min(1, left), min(1, right))]  # where a run ends beside the part
    above, before = margins[0][0], margins[1][0]
    return _encoded(np.pad(part, margins), top - above, left - before, height, width)


def check(mask: Bits) -> None:
    """Raises ValueError for an array that is no mask: bool (H, W) without hidden values, with a pixel."""
    if isinstance(mask, np.ma.MaskedArray):
        raise ValueError("a mask must not be a masked array: fill it first")  # one kind of error for a mask
    if mask.dtype != np.bool_ or mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask must be bool (H, W) with a pixel, not {mask.dtype} {mask.shape}")


def decode(counts: bytes, height: int, width: int) -> Bits:
    """Decode a mask, bool (H, W). Memory stays within a few times H * W and ``len(counts)``.

    Raises:
        MalformedRle: a byte outside the alphabet, a number that does not end, a negative run, or runs that do
            not add up to H * W.
    """
    runs, pixels = _read(counts), height * width
    plausible = runs.size <= pixels + 1 and runs.min() >= 0 and runs.max() <= pixels
    if not plausible or int(runs.sum()) != pixels:
        raise MalformedRle(f"the runs do not make a mask of {height}x{width}")
    values = (np.arange(runs.size) & 1).astype(np.bool_)
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def _encoded(part: Bits, top: int, left: int, height: int, width: int) -> bytes:
    """Of a mask that is set within ``part`` alone, on whose border nothing is unless that is the mask's own."""
    first_is_set = bool(top == left == 0 and part[0, 0])
    begins_set = np.zeros(int(first_is_set), np.int64)  # an empty first run where the first pixel is set
    edges = _edges(part, top, left, height)
    return _write(np.diff(np.concatenate([np.zeros(1, np.int64), begins_set, edges, np.array([height * width])])))


def _edges(part: Bits, top: int, left: int, height: int) -> _Integers:
    """Ascending: where, column by column of the whole mask, a pixel differs from the one before it."""
    rows, columns = np.divmod(np.flatnonzero(part[1:] != part[:-1]), part.shape[1])
    heads = np.flatnonzero(part[0, 1:] != part[-1, :-1]) + 1
    return np.sort(np.concatenate([(left + columns) * height + top + rows + 1, (left + heads) * height]))


def _write(runs: _Integers) -> bytes:
    rest = runs.copy()
    rest[3:] -= runs[1:-2]
    groups = np.zeros((runs.size, _MAX_GROUPS), np.uint8)  # (N, 7)
    used = np.zeros((runs.size, _MAX_GROUPS), np.bool_)  # (N, 7)
    alive = np.ones(runs.size, np.bool_)
    for position in range(_MAX_GROUPS):
        group = rest & 31
        rest >>= 5
        # The number ends where its sign is already told by bit 4 of the group just written.
        more = rest != -(group >> 4)
        groups[:, position] = group + 48 + 32 * more
        used[:, position] = alive
        alive &= more
        if not alive.any():
            break
    return groups[used].tobytes()


def _read(counts: bytes) -> _Integers:
    groups = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if groups.size == 0 or groups.min() < 0 or groups.max() > 63:
        raise MalformedRle("a byte lies outside the alphabet of compressed run lengths")
    last = np.flatnonzero(groups < 32)
    if last.size == 0 or last[-1] != groups.size - 1:
        raise MalformedRle("the last number does not end")
    first = np.concatenate([np.zeros(1, np.int64), last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _MAX_GROUPS:
        raise MalformedRle("a number is longer than any run of a mask")
    position = np.arange(groups.size) - np.repeat(first, lengths)
    runs: _Integers = np.add.reduceat((groups & 31) << (5 * position), first)
    negative = (groups[last] & 16) != 0
    runs[negative] -= np.int64(1) << (5 * lengths[negative])
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
