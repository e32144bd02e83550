"""Slices that training may not see, made up from the training slices on either side of a gap.

Knows how two slices become one between them: optical flow moves both, signed distances blend their labels.
Reads no voxel outside the training slices, so a network meets the anatomy of a gap only as these guess it.
Does not know views or networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.targets import NAMES, Head

F32 = NDArray[np.float32]
Flow = NDArray[np.float32]  # (X, Y, 2): where a pixel of one slice lies in the other, less its own place


def gaps(train: Sequence[int]) -> list[int]:
    """The slices between the first and the last training slice that are not training slices."""
    return sorted(set(range(min(train), max(train) + 1)) - set(train))


def filled(head: Head, train: Sequence[int]) -> Head:
    """The head with every gap made up; beyond the outermost training slices these are repeated."""
    image, stripped, labels = (np.zeros_like(volume) for volume in (head.image, head.stripped, head.labels))
    first, last = min(train), max(train)
    for z in range(image.shape[2]):
        kept = min(max(z, first), last)
        for made, source in ((image, head.image), (stripped, head.stripped), (labels, head.labels)):
            made[..., z] = source[..., kept]
    for low, high in pairwise(sorted(train)):
        forth = _flow(head.image[..., low], head.image[..., high])
        back = _flow(head.image[..., high], head.image[..., low])
        for z in range(low + 1, high):
            moment = _Moment((z - low) / (high - low), forth, back)
            for made, source in ((image, head.image), (stripped, head.stripped)):
                made[..., z] = moment.picture(source[..., low], source[..., high])
            labels[..., z] = moment.labels(head.labels[..., low], head.labels[..., high])
    return Head(image, stripped, labels)


class _Moment:
    """A place between two slices, as a share of the way from the lower to the upper."""

    def __init__(self, share: float, forth: Flow, back: Flow) -> None:
        self._share = share
        rest = 1 - share
        self._low = _places(-rest * share * forth + share * share * back)
        self._high = _places(rest * rest * forth - share * rest * back)

    def picture(self, low: NDArray[np.uint8], high: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(np.rint(self._blend(low.astype(np.float32), high.astype(np.float32))), np.uint8)

    def labels(self, low: NDArray[np.uint32], high: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Each structure by itself; one that only one slice has shrinks towards its core."""
        made = np.zeros_like(low)
        for k in range(len(NAMES)):
            bit = np.uint32(1 << k)
            below, above = (_depth((slice_ & bit) > 0) for slice_ in (low, high))
            if below is None and above is None:
                continue
            if below is None or above is None:
                only = below if above is None else above
                vanished = only - only.max()  # type: ignore[union-attr, operator]  # one of the two is there
                below, above = (vanished, only) if below is None else (only, vanished)
            made[self._blend(below, above) > 0] |= bit  # type: ignore[arg-type]  # both are there by now
        return made

    def _blend(self, low: F32, high: F32) -> F32:
        moved = [
            cv2.remap(each, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for each, places in ((low, self._low), (high, self._high))
        ]
        return np.asarray((1 - self._share) * moved[0] + self._share * moved[1], np.float32)


def _flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Flow:
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    pictures = [np.ascontiguousarray(picture) for picture in (first, second)]
    return np.asarray(finder.calc(pictures[0], pictures[1], None), np.float32)


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
