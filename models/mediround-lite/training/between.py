"""Slices that training may not see, made up from the training slices on either side of a gap.

Knows how two slices become one between them: optical flow moves both, signed distances blend their labels and
go on as they change within the training slices. Reads no voxel outside these, so a network meets the anatomy of
a gap only as they guess it. Does not know views or networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.targets import NAMES, Head

REACH = 4
"""Slices over which a structure's change towards a gap is measured."""
TREND = 0.5
"""How far that change goes on into the gap: 0 straight from edge to edge, 1 smoothly at both edges."""
LABEL_FLOW = 0.5
"""Share of the flow that moves labels: the flow follows grey values, which are not the borders of parcels. The
three were chosen by what the made-up labels of dev slices are worth (Dice 0.837; straight and by the whole flow
0.811) and of gaps made for the purpose in the longest training slabs (0.844; 0.839)."""

F32 = NDArray[np.float32]
Labels = NDArray[np.uint32]
Flow = NDArray[np.float32]  # (X, Y, 2): where a pixel of one slice lies in the other, less its own place


def gaps(train: Sequence[int]) -> list[int]:
    """The slices between the first and the last training slice that are not training slices."""
    return sorted(set(range(min(train), max(train) + 1)) - set(train))


def filled(head: Head, train: Sequence[int]) -> Head:
    """The head with every gap made up; beyond the outermost training slices these are repeated."""
    image, stripped = np.zeros_like(head.image), np.zeros_like(head.stripped)
    labels = np.zeros_like(head.labels)
    first, last = min(train), max(train)
    for z in range(image.shape[2]):
        kept = min(max(z, first), last)
        for made, source in ((image, head.image), (stripped, head.stripped)):
            made[..., z] = source[..., kept]
        labels[..., z] = head.labels[..., kept]
    for low, high in pairwise(sorted(train)):
        forth = _flow(head.image[..., low], head.image[..., high])
        back = _flow(head.image[..., high], head.image[..., low])
        gap = range(low + 1, high)
        for z in gap:
            moment = _Moment((z - low) / (high - low), forth, back)
            for made, source in ((image, head.image), (stripped, head.stripped)):
                made[..., z] = moment.picture(source[..., low], source[..., high])
        labels[..., low + 1 : high] = _labels(head.labels, set(train), gap, LABEL_FLOW * forth, LABEL_FLOW * back)
    return Head(image, stripped, labels)


def _labels(given: Labels, train: set[int], gap: range, forth: Flow, back: Flow) -> Labels:
    """Labels of a gap's slices (X, Y, Z), each structure by itself."""
    low, high = gap.start - 1, gap.stop
    made = np.zeros((*given.shape[:2], len(gap)), np.uint32)
    for k in range(len(NAMES)):
        bit = np.uint32(1 << k)
        depths = {
            z: _depth((given[..., z] & bit) > 0) for z in (low - REACH, low, high, high + REACH) if z in train
        }
        way = _way(depths, low, high)
        if way is None:
            continue
        for number, z in enumerate(gap):
            made[..., number][way.depth((z - low) / (high - low), forth, back) > 0] |= bit
    return made


@dataclass(frozen=True, slots=True)
class _Way:
    """A structure's signed distances on both sides of a gap, and how much more they change near each side than
    they would straight across.
    """

    below: F32
    above: F32
    after: F32
    before: F32

    def depth(self, share: float, forth: Flow, back: Flow) -> F32:
        """A cubic along the gap (Hermite's)."""
        straight = _Moment(share, forth, back).blend(self.below, self.above)
        bent = share * (1 - share) * ((1 - share) * self.after - share * self.before)
        return np.asarray(straight + TREND * bent, np.float32)


def _way(depths: dict[int, F32 | None], low: int, high: int) -> _Way | None:
    """None for a structure that neither side has; one that only one side has shrinks towards its core."""
    below, above = depths[low], depths[high]
    if below is None or above is None:
        only = above if below is None else below
        if only is None:
            return None
        below, above = (only - only.max(), only) if below is None else (only, only - only.max())
    straight, steps = above - below, (high - low) / REACH
    farther_below, farther_above = depths.get(low - REACH), depths.get(high + REACH)
    none = np.float32(0)
    after = none if farther_below is None else (below - farther_below) * steps - straight
    before = none if farther_above is None else (farther_above - above) * steps - straight
    return _Way(below, above, np.asarray(after, np.float32), np.asarray(before, np.float32))


class _Moment:
    """A place between two slices, as a share of the way from the lower to the upper."""

    def __init__(self, share: float, forth: Flow, back: Flow) -> None:
        self._share = share
        rest = 1 - share
        self._low = _places(-rest * share * forth + share * share * back)
        self._high = _places(rest * rest * forth - share * rest * back)

    def picture(self, low: NDArray[np.uint8], high: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(np.rint(self.blend(low.astype(np.float32), high.astype(np.float32))), np.uint8)

    def blend(self, low: F32, high: F32) -> F32:
        moved = [
            cv2.remap(each, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]  # None: both in the first
            for each, places in ((low, self._low), (high, self._high))
        ]
        return np.asarray((1 - self._share) * moved[0] + self._share * moved[1], np.float32)


def _flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Flow:
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    pictures = [np.ascontiguousarray(picture) for picture in (first, second)]
    flow = finder.calc(pictures[0], pictures[1], None)  # type: ignore[call-overload]  # None: no flow to start from
    return np.asarray(flow, np.float32)


def _places(flow: Flow) -> F32:
    """For each pixel the place that it is taken from, as OpenCV has it: (column, row)."""
    rows, columns = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return np.asarray(flow + np.stack([columns, rows], axis=-1), np.float32)


def _depth(bits: NDArray[np.bool_]) -> F32 | None:
    """Signed distance to the border, positive inside; None where nothing is set."""
    if not bits.any():
        return None
    inside, outside = ndimage.distance_transform_edt(bits), ndimage.distance_transform_edt(~bits)
    return np.asarray(inside - outside, np.float32)
