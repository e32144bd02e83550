"""One object's frames, as its header tells of them: position, orientation, spacing, and what tells them apart.

Knows classic objects and the functional groups of enhanced ones. Does not know other objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset

from mediround.dicom.attributes import item, numbers, texts, value_of
from mediround.dicom.errors import BadAttribute, TooLarge
from mediround.dicom.pixels import pixel_module
from mediround.dicom.series.stack import StackFrame
from mediround.dicom.source import DicomSource, Source

MAX_OBJECT_FRAMES = 100_000
_CLASSIC = tuple(
    ("", keyword)
    for keyword in (
        "TemporalPositionIdentifier", "TriggerTime", "EchoTime", "EchoNumbers", "DiffusionBValue", "InversionTime",
        "AcquisitionNumber", "AcquisitionTime",
    )
)  # fmt: skip
"""What tells frames at one position apart, the most telling first (PS3.3 C.7.6, C.8.3)."""
_ENHANCED = (
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
)
_UNIT_ERROR = 1e-2
"""By which a direction's length, or a row's product with its column, may be wrong: real objects round."""


@dataclass(frozen=True, slots=True)
class ObjectHeader:
    """What the frames of one object share.

    Attributes:
        series: Series Instance UID.
        frame_of_reference: its UID; empty where it has none.
        image_type: the first four values.
        repaired: notes on what of the geometry could not be used.
    """

    modality: str
    body_part: str
    series: str
    frame_of_reference: str
    image_type: tuple[str, ...]
    frames: tuple[StackFrame, ...]
    repaired: tuple[str, ...]


def object_header(source: DicomSource, opened: Source) -> ObjectHeader:
    """Raises NoImage, BadAttribute, TooLarge."""
    header, pixels = opened.header, pixel_module(opened)
    if pixels.frames > MAX_OBJECT_FRAMES:
        raise TooLarge(f"an object must have at most {MAX_OBJECT_FRAMES} frames to be put in order")
    image_type = texts(header, "ImageType")[:4]
    repaired: list[str] = []
    groups = _Groups.of(header)
    bare = StackFrame(
        source=source,
        number=0,
        sop_instance_uid=_text(header, "SOPInstanceUID"),
        instance_number=_count(header, "InstanceNumber"),
        rows=pixels.rows,
        columns=pixels.columns,
    )
    # A classic object of several frames says where the first is at most.
    placed = groups.enhanced or pixels.frames == 1

    def made(index: int) -> StackFrame:
        return replace(
            bare,
            number=index + 1,
            position=_position(groups, index, repaired) if placed else None,
            orientation=_orientation(groups, index, repaired) if placed else None,
            spacing=_spacing(groups, index),
            dimensions=tuple(_dimensions(groups, index, image_type)),
        )

    own = min(len(groups.own), pixels.frames)
    alike = made(own)  # what frames without groups of their own share is read once
    rest = (replace(alike, number=index + 1) for index in range(own, pixels.frames))
    frames = (*map(made, range(own)), *rest)
    return ObjectHeader(
        modality=next(iter(texts(header, "Modality")), ""),
        body_part=next(iter(texts(header, "BodyPartExamined")), ""),
        series=_text(header, "SeriesInstanceUID"),
        frame_of_reference=_text(header, "FrameOfReferenceUID"),
        image_type=image_type,
        frames=frames,
        repaired=tuple(dict.fromkeys(repaired)),
    )


def _text(header: Dataset, keyword: str) -> str:
    try:
        value = value_of(header, keyword)
    except BadAttribute:
        return ""
    return value.strip() if isinstance(value, str) else ""


def _numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """None of them where they cannot be read: the geometry is not known then, and the image may be good."""
    try:
        return numbers(header, keyword)
    except BadAttribute:
        return ()


def _count(header: Dataset, keyword: str) -> int | None:
    values = _numbers(header, keyword)
    return int(values[0]) if values else None


@dataclass(frozen=True, slots=True)
class _Groups:
    """Where the attributes of a frame are: its own functional groups, the shared ones, or the object itself."""

    header: Dataset
    own: Sequence[object]
    shared: Dataset | None
    enhanced: bool

    @classmethod
    def of(cls, header: Dataset) -> _Groups:
        """Raises BadAttribute."""
        shared = item(header, "SharedFunctionalGroupsSequence")
        found = value_of(header, "PerFrameFunctionalGroupsSequence")
        own = list(found) if isinstance(found, Sequence) and not isinstance(found, str | bytes) else []
        return cls(header, own, shared, shared is not None or bool(own))

    def numbers(self, index: int, sequence: str, keyword: str) -> tuple[float, ...]:
        if not self.enhanced:
            return _numbers(self.header, keyword)
        own = self.own[index] if index < len(self.own) else None
        for place in (own, self.shared):
            if isinstance(place, Dataset) and sequence in place:
                try:
                    group = item(place, sequence)
                except BadAttribute:
                    continue
                if group is not None:
                    return _numbers(group, keyword)
        return ()


def _position(groups: _Groups, index: int, repaired: list[str]) -> tuple[float, float, float] | None:
    values = groups.numbers(index, "PlanePositionSequence", "ImagePositionPatient")
    if len(values) != 3 or max(map(abs, values)) > 1e6:
        if values:
            repaired.append("ImagePositionPatient cannot be: it is not used")
        return None
    return values[0], values[1], values[2]


def _orientation(groups: _Groups, index: int, repaired: list[str]) -> tuple[float, ...] | None:
    values = groups.numbers(index, "PlaneOrientationSequence", "ImageOrientationPatient")
    if not values:
        return None
    row, column = values[:3], values[3:]
    units = len(values) == 6 and all(abs(math.hypot(*each) - 1) < _UNIT_ERROR for each in (row, column))
    if not units or abs(sum(a * b for a, b in zip(row, column, strict=True))) > _UNIT_ERROR:
        repaired.append("ImageOrientationPatient cannot be: it is not used")
        return None
    return values


def _spacing(groups: _Groups, index: int) -> tuple[float, float] | None:
    values = groups.numbers(index, "PixelMeasuresSequence", "PixelSpacing")
    return (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None


def _dimensions(groups: _Groups, index: int, image_type: tuple[str, ...]) -> Iterator[tuple[str, float | str]]:
    for sequence, keyword in _ENHANCED if groups.enhanced else _CLASSIC:
        if values := groups.numbers(index, sequence, keyword):
            yield keyword, values[0]
    if len(image_type) > 2:
        yield "ImageType", "\\".join(image_type[2:])
