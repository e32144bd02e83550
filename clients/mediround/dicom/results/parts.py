"""How structures are shared out among SEG objects: by number of frames, by memory, and where no frame has a place.

Knows masks and frames. Does not know how objects are written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mediround.dicom.attributes import whole
from mediround.dicom.results.segments import Bits, FrameKey, Segment
from mediround.dicom.results.sources import SourceFrame, Sources
from mediround.errors import FieldViolation, InvalidArgument

MOST_FRAMES = 400
"""Of one object: what viewers open at once."""
_MOST_PIXELS = 1 << 29
"""Of segments times frames of one object, while it is built."""
_SAME_PLACE = 1e-3
"""Millimetres, within which frames lie at one place."""


class _Chosen(Mapping[FrameKey, Bits]):
    """Some of a segment's masks, held by their keys alone: the caller's may be packed until they are asked for."""

    def __init__(self, masks: Mapping[FrameKey, Bits], keys: Iterable[FrameKey]) -> None:
        self._masks, self._keys = masks, dict.fromkeys(keys)

    def __getitem__(self, key: FrameKey) -> Bits:
        if key not in self._keys:
            raise KeyError(key)
        return self._masks[key]

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[FrameKey]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


@dataclass(frozen=True, slots=True)
class Part:
    """What goes into one object."""

    segments: tuple[Segment, ...]
    """Each with the masks of this object alone."""
    frames: tuple[SourceFrame, ...]


def shared_out(segments: Sequence[Segment], sources: Sources) -> Iterator[Part]:
    """What goes into each object: of the masks that have a pixel. Raises InvalidArgument as ``write_seg`` does."""
    found = [_found(segment, sources) for segment in segments]
    yield from _parts([segment for segment in found if segment.masks], sources)


def _found(segment: Segment, sources: Sources) -> Segment:
    """The segment with the masks that have a pixel."""
    for key, mask in segment.masks.items():
        header = sources[key].header
        shape = tuple(whole(header, keyword, 1, 65535) for keyword in ("Rows", "Columns"))
        if mask.dtype != np.bool_ or mask.shape != shape:
            words = "must be bool, of the frame's Rows and Columns"
            raise InvalidArgument(f"masks: {words}", (FieldViolation("masks", words),))
    keys = [key for key, mask in segment.masks.items() if mask.any()]
    return replace(segment, masks=_Chosen(segment.masks, keys))


def _parts(segments: Sequence[Segment], sources: Sources) -> Iterator[Part]:
    frames = sources.ordered({key for segment in segments for key in segment.masks})
    for layer in layers(frames):
        here = [_cut(segment, layer) for segment in segments]
        yield from _packed([segment for segment in here if segment.masks], sources)


def layers(frames: Sequence[SourceFrame]) -> list[list[SourceFrame]]:
    """Frames that may share an object: none is where another is. One that lies nowhere is alone."""
    found: list[list[SourceFrame]] = []
    taken: Counter[tuple[int, ...]] = Counter()
    if not all(frame.placed for frame in frames):
        return [[frame] for frame in frames]
    for frame in frames:
        where = tuple(round(float(each) / _SAME_PLACE) for each in frame.place["ImagePositionPatient"])
        if taken[where] == len(found):
            found.append([])
        found[taken[where]].append(frame)
        taken[where] += 1
    return found


def _packed(segments: Sequence[Segment], sources: Sources) -> Iterator[Part]:
    held: list[Segment] = []
    for segment in segments:
        for piece in _pieces(segment, sources):
            if held and not _fits([*held, piece]):
                yield _part(held, sources)
                held = []
            held.append(piece)
    if held:
        yield _part(held, sources)


def _pieces(segment: Segment, sources: Sources) -> Iterator[Segment]:
    """The segment, cut where it alone is too large for one object."""
    frames = sources.ordered(set(segment.masks))
    pixels = next(iter(segment.masks.values())).size
    most = max(1, min(MOST_FRAMES, _MOST_PIXELS // pixels))
    for first in range(0, len(frames), most):
        yield _cut(segment, frames[first : first + most])


def _fits(segments: Sequence[Segment]) -> bool:
    keys = {key for segment in segments for key in segment.masks}
    pixels = len(segments) * len(keys) * next(iter(segments[0].masks.values())).size
    return sum(len(segment.masks) for segment in segments) <= MOST_FRAMES and pixels <= _MOST_PIXELS


def _cut(segment: Segment, frames: Sequence[SourceFrame]) -> Segment:
    keys = [frame.key for frame in frames if frame.key in segment.masks]
    return replace(segment, masks=_Chosen(segment.masks, keys))


def _part(segments: Sequence[Segment], sources: Sources) -> Part:
    keys = {key for segment in segments for key in segment.masks}
    return Part(tuple(segments), tuple(sources.ordered(keys)))
