"""Frames of a series, grouped into stacks: one size, one orientation, one Frame of Reference, one order.

Knows geometry. Does not know files or attributes. Choices:
- Orientations are equal within 1e-4 in each cosine, positions within 0.01 mm along the normal.
- Where several frames lie at each position, one attribute that tells them apart (time, echo, b-value) makes as
  many stacks; where nothing does, the frame of the lowest Instance Number stays and the rest are set aside.
- Several frames at one position alone are one stack over time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median_low
from typing import Literal

from mediround.dicom.series.headers import ObjectHeader
from mediround.dicom.series.stack import Gap, SetAside, Stack, StackFrame

ORIENTATION_TOLERANCE = 1e-4
POSITION_TOLERANCE = 0.01
"""mm."""
MAX_STACKS = 500
"""Of one series: rotating projections have one orientation a frame."""
_GAP = 1.5
"""Times the spacing."""
_TIMES = (
    "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime", "NominalCardiacTriggerDelayTime"
)  # fmt: skip
_PLANES = ("sagittal", "coronal", "axial")
_UPRIGHT = 0.906
"""Cosine of 25 degrees."""
_ONE_POSITION = "frames at one position: one after the other in time"
_LAST = 1 << 40
"""Instance Number of what has none."""
_NO_GEOMETRY = "position or orientation is not known: ordered by InstanceNumber and frame number"


@dataclass(slots=True)
class _Group:
    """Frames that may share a stack."""

    head: ObjectHeader
    frames: list[StackFrame] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)


def stacks_of(objects: Iterable[ObjectHeader]) -> tuple[list[Stack], list[SetAside]]:
    """Stacks of all series, and the frames that belong to none."""
    series: dict[str, list[_Group]] = defaultdict(list)
    aside: list[SetAside] = []
    for head in _objects_once(objects, aside):
        for frame in head.frames:
            group = _group_of(series[head.series], head, frame)
            if group is None:
                words = f"the series has more than {MAX_STACKS} sizes and orientations"
                aside.append(SetAside(frame.source, frame.number, "too_many", words))
                continue
            group.frames.append(frame)
            group.notes.update(dict.fromkeys(head.repaired))
    stacks = []
    for groups in series.values():
        found = [stack for group in groups for stack in _stacks(group, aside)]
        found.sort(key=lambda stack: -len(stack.frames))
        stacks += [replace(each, part=part, parts=len(found)) for part, each in enumerate(found, start=1)]
    return stacks, aside


def _objects_once(objects: Iterable[ObjectHeader], aside: list[SetAside]) -> Iterator[ObjectHeader]:
    """Each SOP Instance once: the first that is found."""
    seen: set[str] = set()
    for head in objects:
        name = head.frames[0].sop_instance_uid
        if name and name in seen:
            words = "an object of the same SOPInstanceUID was found before"
            aside.append(SetAside(head.frames[0].source, None, "duplicate_object", words))
            continue
        seen.add(name)
        yield head


def _group_of(groups: list[_Group], head: ObjectHeader, frame: StackFrame) -> _Group | None:
    """The one that the frame belongs to, perhaps new; None where there are too many."""
    for group in groups:
        first, other = group.frames[0], group.head
        if (
            (first.rows, first.columns) == (frame.rows, frame.columns)
            and other.frame_of_reference == head.frame_of_reference
            and _localizer(other) == _localizer(head)
            and _parallel(first.orientation, frame.orientation)
            and (first.position is None) == (frame.position is None)
        ):
            return group
    if len(groups) == MAX_STACKS:
        return None
    groups.append(_Group(head, []))
    return groups[-1]


def _localizer(head: ObjectHeader) -> bool:
    return "LOCALIZER" in head.image_type


def _parallel(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(abs(a - b) <= ORIENTATION_TOLERANCE for a, b in zip(one, other, strict=True))


def _stacks(group: _Group, aside: list[SetAside]) -> Iterator[Stack]:
    orientation = group.frames[0].orientation
    if orientation is None or group.frames[0].position is None:
        frames = sorted(group.frames, key=_number)
        yield _stack(group, frames, "number", None, [_NO_GEOMETRY] if len(frames) > 1 else [])
        return
    normal = _normal(orientation)
    located = sorted(
        (_located(each, normal) for each in group.frames), key=lambda each: (each.location, _number(each))
    )
    positions = list(_positions(located))
    if len(positions) == 1 and len(located) > 1:
        yield _stack(
            group, _in_time(located), "time", normal, ["frames at one position: one after the other in time"]
        )
        return
    for frames, note in _apart(positions, aside):
        yield _stack(group, frames, "position", normal, [note] if note else [])


def _located(frame: StackFrame, normal: Sequence[float]) -> StackFrame:
    position = frame.position or (0.0, 0.0, 0.0)
    return replace(frame, location=sum(a * b for a, b in zip(position, normal, strict=True)))


def _positions(located: Sequence[StackFrame]) -> Iterator[list[StackFrame]]:
    """Frames that lie at one position along the normal, in its order."""
    together: list[StackFrame] = []
    for frame in located:
        if together and _location(frame) - _location(together[0]) > POSITION_TOLERANCE:
            yield together
            together = []
        together.append(frame)
    if together:
        yield together


def _apart(positions: list[list[StackFrame]], aside: list[SetAside]) -> Iterator[tuple[list[StackFrame], str]]:
    """Frames with each position once, and a note."""
    most = max(map(len, positions))
    if most == 1:
        yield [each[0] for each in positions], ""
        return
    if split := _split(positions, most):
        keyword, parts = split
        for number, part in enumerate(parts, start=1):
            yield part, f"{keyword} {number} of {len(parts)}"
        return
    for each in positions:
        for frame in each[1:]:
            words = "another frame of the stack lies at the same position"
            aside.append(SetAside(frame.source, frame.number, "duplicate_position", words))
    yield [each[0] for each in positions], "of several frames at one position the first by InstanceNumber is taken"


def _split(positions: list[list[StackFrame]], most: int) -> tuple[str, list[list[StackFrame]]] | None:
    """By the first attribute of which each value has a position once, in as many parts as frames lie together."""
    keywords = dict.fromkeys(keyword for each in positions for frame in each for keyword, _ in frame.dimensions)
    for keyword in keywords:
        parts: dict[float | str, list[StackFrame]] = defaultdict(list)
        for each in positions:
            values = [dict(frame.dimensions).get(keyword) for frame in each]
            if None in values or len(set(values)) < len(values):
                break
            for value, frame in zip(values, each, strict=True):
                parts[value or 0].append(frame)
        else:
            if len(parts) == most:
                return keyword, [
                    parts[value] for value in sorted(parts, key=lambda value: (isinstance(value, str), value))
                ]
    return None


def _in_time(frames: list[StackFrame]) -> list[StackFrame]:
    keywords = (
        "TemporalPositionIdentifier",
        "TemporalPositionIndex",
        "TriggerTime",
        "NominalCardiacTriggerDelayTime",
    )
    for keyword in keywords:
        values = [dict(frame.dimensions).get(keyword) for frame in frames]
        if None not in values and len(set(values)) == len(values):
            return sorted(frames, key=lambda frame: dict(frame.dimensions)[keyword])
    return sorted(frames, key=_number)


def _number(frame: StackFrame) -> tuple[int, int, str]:
    first = _LAST if frame.instance_number is None else frame.instance_number
    return first, frame.number, frame.sop_instance_uid


def _location(frame: StackFrame) -> float:
    return frame.location or 0.0


def _normal(orientation: Sequence[float]) -> tuple[float, float, float]:
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    return b * f - c * e, c * d - a * f, a * e - b * d


def _plane(normal: Sequence[float] | None) -> str | None:
    if normal is None:
        return None
    size, name = max(zip(map(abs, normal), _PLANES, strict=True))
    return name if size >= _UPRIGHT else "oblique"


def _stack(
    group: _Group,
    frames: list[StackFrame],
    order: Literal["position", "time", "number"],
    normal: tuple[float, float, float] | None,
    notes: list[str],
) -> Stack:
    steps = [_location(b) - _location(a) for a, b in pairwise(frames)] if order == "position" else []
    spacing = median_low(steps) if steps else None
    gaps = [
        Gap(after, step, round(step / spacing) - 1)
        for after, step in enumerate(steps)
        if spacing and step > _GAP * spacing
    ]
    return Stack(
        modality=group.head.modality,
        body_part=group.head.body_part,
        series_instance_uid=group.head.series,
        part=1,
        parts=1,
        frames=tuple(frames),
        order=order,
        plane=_plane(normal),
        spacing=spacing,
        gaps=tuple(gaps),
        localizer=_localizer(group.head),
        notes=(*notes, *group.notes),
    )
