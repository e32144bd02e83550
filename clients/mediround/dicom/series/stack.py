"""Stacks of frames, and what belongs to none: the values.

Knows what is told of a series. Does not know how it is read or grouped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mediround.dicom.source import DicomSource

Triple: TypeAlias = tuple[float, float, float]
Reason: TypeAlias = Literal[
    "not_dicom", "no_image", "refused", "unreadable", "duplicate_object", "duplicate_position", "too_many"
]


@dataclass(frozen=True, slots=True)
class StackFrame:
    """One frame of one object, and where it lies.

    Attributes:
        source: the object, as it was given or found.
        number: of the frame in the object, from 1, as DICOM counts frames.
        sop_instance_uid: of the object; empty where it has none.
        instance_number: of the object; None where it has none.
        rows: of the frame, in pixels.
        columns: the same.
        position: of the first pixel's centre, mm in the patient's coordinates (Image Position); None: not known.
        orientation: direction cosines of a row and of a column (Image Orientation); None: not known.
        spacing: between rows and between columns, mm; None: not known.
        location: mm along the stack's normal; None: not known.
        dimensions: what tells frames at one position apart: keyword and value, for example
            ``("EchoTime", 12.0)``.
    """

    source: DicomSource = field(repr=False)
    number: int
    sop_instance_uid: str = field(repr=False)
    instance_number: int | None
    rows: int
    columns: int
    position: Triple | None = None
    orientation: tuple[float, ...] | None = None
    spacing: tuple[float, float] | None = None
    location: float | None = None
    dimensions: tuple[tuple[str, float | str], ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """Where slices are missing between two frames of a stack.

    Attributes:
        after: zero-based index in the stack of the frame before the gap.
        distance: to the next frame, mm.
        missing: slices that would fill it at the stack's spacing, rounded.
    """

    after: int
    distance: float
    missing: int


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames of one series that lie in one order: of one size, orientation and Frame of Reference, each at a
    position of its own; or one position over time.

    Attributes:
        modality: Modality; empty where it is not said.
        body_part: Body Part Examined; empty where it is not said.
        series_instance_uid: of the series; empty where it has none.
        part: number of this stack within its series, from 1.
        parts: stacks of the series.
        frames: in order; at least one.
        order: ``position``: along the normal; ``time``: at one position, one after the other; ``number``: by
            Instance Number and frame number, where the geometry is not known.
        plane: ``axial``, ``coronal`` or ``sagittal`` where the normal is within 25 degrees of that; ``oblique``;
            or None: not known.
        spacing: between neighbours along the normal, mm, the median; None: not known.
        gaps: where neighbours are further apart than one and a half times that.
        localizer: whether Image Type says that it is one.
        notes: what a person should know, in words without values of the patient's.
    """

    modality: str
    body_part: str
    series_instance_uid: str = field(repr=False)
    part: int
    parts: int
    frames: tuple[StackFrame, ...] = field(repr=False)
    order: Literal["position", "time", "number"]
    plane: str | None
    spacing: float | None
    gaps: tuple[Gap, ...] = ()
    localizer: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetAside:
    """An object, or one of its frames, that belongs to no stack.

    Attributes:
        source: the object, as it was given or found.
        frame: number of the frame, from 1; None: the whole object.
        reason: the kind.
        description: why, in words that hold no value of the object and no name.
    """

    source: DicomSource = field(repr=False)
    frame: int | None
    reason: Reason
    description: str


@dataclass(frozen=True, slots=True)
class SeriesReading:
    """What a folder or a list of objects holds.

    Attributes:
        stacks: by series in the order in which they were found; the parts of one series by size, largest first.
        set_aside: all the rest.
    """

    stacks: tuple[Stack, ...]
    set_aside: tuple[SetAside, ...]
