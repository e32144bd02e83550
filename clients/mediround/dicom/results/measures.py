"""How large structures are, in millimetres where the frames say how large a pixel is.

Knows masks and where frames lie. Does not know reports.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from mediround.dicom.results.segments import Bits, FrameKey
from mediround.dicom.results.sources import SourceFrame

_SAME_PLACE = 1e-3
"""Millimetres along the normal, within which frames lie in one plane."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of a structure.

    Attributes:
        value: in ``unit``.
        unit: ``cm3``, ``mm2``, or ``pixels`` where the frames do not say how large one is.
    """

    value: float
    unit: str


def size_of(masks: Mapping[FrameKey, Bits], frames: Sequence[SourceFrame], step: float | None) -> Size:
    """Over several planes the volume; on one the area, over its frames the mean. ``step`` is the distance of
    neighbouring slices, mm.

    The volume is the area on each frame, times the step, whatever the frames' own thickness is.
    """
    pixels = sum(int(masks[frame.key].sum()) for frame in frames)
    if not all("PixelSpacing" in frame.place for frame in frames):
        return Size(pixels / len(frames), "pixels")
    area = sum(int(masks[frame.key].sum()) * _pixel_area(frame) for frame in frames)
    if step is not None and len(planes(frames)) > 1:
        return Size(area * step / 1000, "cm3")
    return Size(area / len(frames), "mm2")


def slice_step(frames: Collection[SourceFrame]) -> float | None:
    """Distance of neighbouring slices of the series, mm: the median; None where there is one plane, or none."""
    found = planes(frames)
    return median(np.diff(found).tolist()) if len(found) > 1 else None


def planes(frames: Collection[SourceFrame]) -> list[float]:
    """Where planes of frames lie along their normal, mm, ascending; none where a frame does not say."""
    if not frames or not all(frame.placed for frame in frames):
        return []
    orientation = np.asarray(next(iter(frames)).place["ImageOrientationPatient"], float)
    normal = np.cross(orientation[:3], orientation[3:])
    along = np.sort([np.asarray(frame.place["ImagePositionPatient"], float) @ normal for frame in frames])
    apart = np.diff(along, prepend=-np.inf) > _SAME_PLACE
    return [float(one) for one in along[apart]]


def _pixel_area(frame: SourceFrame) -> float:
    rows, columns = frame.place["PixelSpacing"]
    return float(rows) * float(columns)
