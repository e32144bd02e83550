"""In which order the frames of a stack are asked, and which follow which.

Knows indices and gaps. Does not know masks or servers.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from mediround.dicom.series.stack import Stack
from mediround.errors import FieldViolation, InvalidArgument


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked at once, and what after which frame.

    Attributes:
        first: indices that wait for none, in the order in which they are asked.
        after: indices that follow a frame, by that frame's.
        across_gaps: indices that would follow a frame but for a gap between them.
    """

    first: tuple[int, ...]
    after: dict[int, tuple[int, ...]] = field(default_factory=dict)
    across_gaps: frozenset[int] = frozenset()


def chosen(stack: Stack, frames: Sequence[int] | None) -> list[int]:
    """Indices in order, each once. Raises InvalidArgument."""
    count = len(stack.frames)
    if frames is None:
        return list(range(count))
    found = sorted({_index(each, count, "frames") for each in frames})
    if not found:
        raise _refused("frames", "must hold at least one index, or be left out")
    return found


def ordered(
    stack: Stack, frames: Sequence[int] | None, starts: Sequence[int], *, follow: bool, given: Container[int] = ()
) -> Order:
    """Of what a caller asks; ``given``: indices whose masks are there. Raises InvalidArgument."""
    indices = chosen(stack, frames)
    if starts and not follow:
        raise _refused("start", "must be left out where frames do not follow one another")
    starts = starts or [index for index in indices if index in given]
    return following(stack, indices, starts) if follow else alone(indices)


def alone(indices: Sequence[int]) -> Order:
    """No frame follows another."""
    return Order(tuple(indices))


def following(stack: Stack, indices: Sequence[int], starts: Sequence[int]) -> Order:
    """Each frame follows its neighbour on the way to the nearest start, except across a gap.

    Neighbours are those that are asked: where every fourth frame is chosen, each follows the fourth before it.

    Raises:
        InvalidArgument: a start is none of the frames.
    """
    places = {index: place for place, index in enumerate(indices)}
    for start in starts:
        if start not in places:
            raise _refused("start", "must be the index of a frame that is asked")
    begins = sorted(places[start] for start in starts) or [len(indices) // 2]
    gaps = {gap.after for gap in stack.gaps}
    first, after, across = [indices[place] for place in begins], dict[int, list[int]](), set[int]()
    for place, index in enumerate(indices):
        nearest = min(begins, key=lambda begin: abs(begin - place))
        if nearest == place:
            continue
        before = indices[place - 1 if nearest < place else place + 1]
        if any(min(before, index) <= gap < max(before, index) for gap in gaps):
            first.append(index)
            across.add(index)
        else:
            after.setdefault(before, []).append(index)
    return Order(tuple(first), {index: tuple(each) for index, each in after.items()}, frozenset(across))


def _index(value: object, count: int, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count:
        return value
    raise _refused(name, f"must be indices from 0 to {count - 1}")


def _refused(name: str, words: str) -> InvalidArgument:
    return InvalidArgument(f"{name}: {words}", (FieldViolation(name, words),))
