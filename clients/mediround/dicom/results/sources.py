"""The frames that results are about, in the order of their series, and where each lies.

Knows headers of one series: single-frame objects, enhanced and older multi-frame ones, together. Does not know
masks, pixels or what is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from mediround.dicom.attributes import group, numbers, value_of, whole
from mediround.dicom.errors import BadAttribute
from mediround.dicom.limits import MAX_FRAMES
from mediround.dicom.results.segments import FrameKey
from mediround.errors import FieldViolation, InvalidArgument

ORIENTATION_TOLERANCE = 1e-4
"""Between direction cosines of frames that are written into one object."""
SPACING_TOLERANCE = 1e-3
"""Between their pixel spacings, of the larger one."""
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_GEOMETRY = {
    "PlanePositionSequence": {"ImagePositionPatient": 3},
    "PlaneOrientationSequence": {"ImageOrientationPatient": 6},
    "PixelMeasuresSequence": {"PixelSpacing": 2, "SliceThickness": 1, "SpacingBetweenSlices": 1},
}
"""Attributes by their functional group, and how many numbers each has."""
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One frame of a source.

    Attributes:
        key: its object's SOP Instance UID, and its number there from 1.
        header: of its object.
        multiframe: whether the object may hold more than one.
        place: its position, orientation, spacing and thickness (mm), by keyword, as far as they are there.
    """

    key: FrameKey
    header: Dataset
    multiframe: bool
    place: Mapping[str, Any]

    @property
    def placed(self) -> bool:
        """Whether it is known where it lies in the patient."""
        return bool(value_of(self.header, "FrameOfReferenceUID")) and all(name in self.place for name in _PLACE)


class Sources:
    """Frames of one series, by key, in the order in which their objects were given."""

    def __init__(self, headers: Sequence[Dataset]) -> None:
        """Raises InvalidArgument for none, or for several series; BadAttribute where an object lacks its UIDs."""
        if not headers:
            raise _refused("must hold the header of at least one object")
        for header in headers:
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
                if not isinstance(value_of(header, keyword), str):
                    raise BadAttribute(f"{keyword} must be there", keyword)
        if len({(header.StudyInstanceUID, header.SeriesInstanceUID) for header in headers}) > 1:
            raise _refused("must be of one series: write the results of each series apart")
        self.headers = tuple(headers)
        self.first = headers[0]
        self._frames = {frame.key: frame for header in headers for frame in _frames(header)}

    def __getitem__(self, key: FrameKey) -> SourceFrame:
        """Raises InvalidArgument for a frame that no source has."""
        found = self._frames.get(key)
        if found is None:
            raise InvalidArgument(
                "masks: a frame must be one of the sources'",
                (FieldViolation("masks", "must be keyed by SOP Instance UID and frame number of a source"),),
            )
        return found

    def ordered(self, keys: set[FrameKey] | None = None) -> list[SourceFrame]:
        """Those frames, or all, in the series' order. Raises InvalidArgument as ``__getitem__`` does."""
        for key in keys or ():
            self[key]
        return [frame for key, frame in self._frames.items() if keys is None or key in keys]


def _frames(header: Dataset) -> Iterator[SourceFrame]:
    uid, multiframe = str(header.SOPInstanceUID), value_of(header, "NumberOfFrames") is not None
    frames = whole(header, "NumberOfFrames", 1, MAX_FRAMES, 1)
    # Without functional groups an object of several frames says where the first is at most.
    nowhere = frames > 1 and not any(keyword in header for keyword in _GROUPS)
    for index in range(frames):
        place = {} if nowhere else _place(header, index)
        yield SourceFrame((uid, index + 1), header, multiframe, place)


def _place(header: Dataset, index: int) -> dict[str, Any]:
    """Of a frame: its own functional groups, then the shared ones, then the object's attributes.

    As they stand in the source, so that they are written in the same digits; what cannot be is left out.
    """
    found = {}
    for sequence, keywords in _GEOMETRY.items():
        holder = group(header, sequence, index)
        for keyword, count in keywords.items():
            try:
                values = numbers(holder, keyword)
            except BadAttribute:
                continue
            if len(values) == count:
                found[keyword] = value_of(holder, keyword)
    return found


def _refused(words: str) -> InvalidArgument:
    return InvalidArgument(f"sources: {words}", (FieldViolation("sources", words),))
