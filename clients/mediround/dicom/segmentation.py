"""Masks of a Segmentation object (SEG), on the frames of images: to be references, or to be compared with.

    stored = mediround.dicom.read_segmentation("seg.dcm")
    mask = stored.mask(1, instance)                        # bool (Rows, Columns), or None
    session.seed("the liver", frame.from_stored(mask))

Knows BINARY, FRACTIONAL and LABELMAP, and how an object says which image a frame of it is about: by its UIDs, or
by its place. Does not know what segments mean, nor how objects are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from mediround.dicom.attributes import bad, group, numbers, texts, value_of, whole
from mediround.dicom.decoding import decoded_frame
from mediround.dicom.errors import BadPixels, TooLarge
from mediround.dicom.instance import Instance
from mediround.dicom.limits import MAX_FRAME_PIXELS, MAX_FRAMES
from mediround.dicom.pixels import PixelModule
from mediround.dicom.quiet import MALFORMED, quiet
from mediround.dicom.source import DicomSource, Source, opened
from mediround.errors import FieldViolation, InvalidArgument

Bits = npt.NDArray[np.bool_]
LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
MAX_SEGMENTS = 1 << 16
POSITION_TOLERANCE = 1e-2
"""Millimetres, between the corner of an image and of a mask that lies on it."""
DIRECTION_TOLERANCE = 1e-4
"""Between direction cosines, and relative between spacings."""


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """What an object says of one segment. Its words may identify a patient.

    Attributes:
        number: Segment Number, by which ``mask`` names it.
        label: Segment Label.
        tracking_uid: empty where it has none.
    """

    number: int
    label: str = field(repr=False)
    tracking_uid: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Plane:
    """Of one frame: the segment (None in a LABELMAP), the frames it is about, and its place."""

    segment: int | None
    sources: frozenset[tuple[str, int | None]]
    """SOP Instance UID, and the frame's number; None: the object has one, or all are meant."""
    place: tuple[tuple[float, ...], ...]


class StoredSegmentation:
    """The masks of one SEG object. Frames are decoded when they are asked for."""

    def __init__(self, source: Source, module: PixelModule, kind: str, least: float) -> None:
        self._source, self._module, self._kind, self._least = source, module, kind, least
        self._reference = str(value_of(source.header, "FrameOfReferenceUID") or "")
        self.segments: tuple[StoredSegment, ...] = tuple(_segments(source.header))
        """Its segments, in its order."""
        self._planes = [_plane(source.header, index, kind) for index in range(module.frames)]

    @property
    def images(self) -> frozenset[str]:
        """SOP Instance UIDs of the images that its frames say they are about."""
        return frozenset(uid for plane in self._planes for uid, _ in plane.sources)

    @property
    def frame_of_reference(self) -> str:
        """Frame of Reference UID, in which its frames may lie on other images; empty without one."""
        return self._reference

    @property
    def written(self) -> str:
        """Content Date and Time, which sort by time as they are; empty without them."""
        header = self._source.header
        return "".join(str(value_of(header, name) or "") for name in ("ContentDate", "ContentTime"))

    def mask(self, segment: int, image: Instance | Dataset, frame: int = 1) -> Bits | None:
        """A segment's mask on an image's frame, bool (Rows, Columns); None where it has none there.

        The object's frames that refer to this frame by its UIDs are taken, else those that lie on it: in the same
        frame of reference, of the same position, orientation, spacing and size.

        Args:
            segment: its number, one of ``segments``.
            image: the image, or its header.
            frame: of the image, from 1.

        Raises:
            InvalidArgument: there is no such segment, or the frame that refers to the image is of another size.
            BadPixels, UnsupportedSyntax: a frame cannot be decoded.
            OSError: the file cannot be read.
        """
        if segment not in {one.number for one in self.segments}:
            raise _refused("segment", "must be the number of a segment that the object has")
        header = image.header if isinstance(image, Instance) else image
        size = whole(header, "Rows", 1, 65535), whole(header, "Columns", 1, 65535)
        mask = np.zeros((self._module.rows, self._module.columns), np.bool_)
        for index in self._about(segment, header, frame, size):
            if size != mask.shape:
                raise _refused("image", "must have the mask's Rows and Columns, for the object refers to it")
            mask |= self._bits(index, segment)
        return mask if mask.any() else None

    def _about(self, segment: int, header: Dataset, frame: int, size: tuple[int, int]) -> list[int]:
        """Indices of the frames that hold the segment on an image's frame."""
        uid = str(value_of(header, "SOPInstanceUID") or "")
        mine = [index for index, plane in enumerate(self._planes) if plane.segment in {None, segment}]
        one = whole(header, "NumberOfFrames", 1, MAX_FRAMES, 1) == 1
        keys = {(uid, frame), (uid, None)} if one else {(uid, frame)}
        named = [index for index in mine if keys & self._planes[index].sources]
        if named or not self._reference or self._reference != value_of(header, "FrameOfReferenceUID"):
            return named
        if size != (self._module.rows, self._module.columns):
            return []
        place = _place(header, frame - 1)
        return [index for index in mine if _same(place, self._planes[index].place)]

    def _bits(self, index: int, segment: int) -> Bits:
        samples = decoded_frame(self._source, self._module, index).samples
        if samples.shape != (self._module.rows, self._module.columns):
            raise BadPixels("a frame of a segmentation must have one sample a pixel")
        if self._kind == "LABELMAP":
            return np.equal(samples, segment)
        return np.greater_equal(samples, self._least)


def read_segmentation(source: DicomSource, *, threshold: float = 0.5) -> StoredSegmentation:
    """Read a SEG object's segments, and what its frames are about.

    Args:
        source: a path, the bytes of a Part 10 file, or a pydicom data set.
        threshold: of a FRACTIONAL object: the fraction, more than 0 and at most 1, from which a pixel is set.

    Raises:
        NotDicom, BadAttribute, TooLarge: it cannot be read, or is no SEG.
        InvalidArgument: the threshold cannot be.
        OSError: the path cannot be read.
    """
    if not isinstance(threshold, int | float) or not 0 < threshold <= 1:
        raise _refused("threshold", "must be more than 0 and at most 1")
    found = opened(source)
    header = found.header
    if str(value_of(header, "SOPClassUID")) not in {str(SegmentationStorage), LABEL_MAP_STORAGE}:
        raise bad("SOPClassUID", "must be Segmentation Storage or Label Map Segmentation Storage")
    kind = next(iter(texts(header, "SegmentationType")), "")
    if kind not in {"BINARY", "FRACTIONAL", "LABELMAP"}:
        raise bad("SegmentationType", "must be BINARY, FRACTIONAL or LABELMAP")
    least = whole(header, "MaximumFractionalValue", 1, 255) * threshold if kind == "FRACTIONAL" else 1
    return StoredSegmentation(found, _module(found, kind), kind, least)


def _module(source: Source, kind: str) -> PixelModule:
    header, place = source.header, source.pixels
    if place is None or place.keyword != "PixelData":
        raise bad("PixelData", "must be there")
    rows, columns = whole(header, "Rows", 1, 65535), whole(header, "Columns", 1, 65535)
    if rows * columns > MAX_FRAME_PIXELS:
        raise TooLarge(f"a frame must have at most {MAX_FRAME_PIXELS} pixels")
    allocated = whole(header, "BitsAllocated", 1, 16)
    if allocated not in {"BINARY": {1, 8}, "FRACTIONAL": {8}, "LABELMAP": {8, 16}}[kind]:
        raise bad("BitsAllocated", f"cannot be {allocated} in a {kind} segmentation")
    frames = whole(header, "NumberOfFrames", 1, MAX_FRAMES, 1)
    # A palette of colours is for viewers: the values are what counts.
    return PixelModule(
        place, frames, rows, columns, 1, "MONOCHROME2", allocated, allocated, allocated - 1, signed=False, planar=0
    )


def _segments(header: Dataset) -> Iterator[StoredSegment]:
    items = _items(header, "SegmentSequence")
    if len(items) > MAX_SEGMENTS:
        raise TooLarge(f"must have at most {MAX_SEGMENTS} segments")
    for each in items:
        label, uid = (str(value_of(each, keyword) or "") for keyword in ("SegmentLabel", "TrackingUID"))
        number = whole(each, "SegmentNumber", 0, MAX_SEGMENTS - 1)
        if number:  # of a LABELMAP, 0 is the background
            yield StoredSegment(number, label, uid)


def _plane(header: Dataset, index: int, kind: str) -> _Plane:
    segment = None
    if kind != "LABELMAP":
        holder = group(header, "SegmentIdentificationSequence", index)
        segment = whole(holder, "ReferencedSegmentNumber", 0, MAX_SEGMENTS - 1)
    derivation = group(header, "DerivationImageSequence", index)
    # Without one, the object itself: its own Source Image Sequence is of all frames together.
    sources = () if derivation is header else _sources(derivation)
    return _Plane(segment, frozenset(sources), _place(header, index))


def _sources(derivation: Dataset) -> Iterator[tuple[str, int | None]]:
    for each in _items(derivation, "SourceImageSequence"):
        uid = str(value_of(each, "ReferencedSOPInstanceUID") or "")
        frames = numbers(each, "ReferencedFrameNumber")
        yield from ((uid, int(one)) for one in frames) if frames else [(uid, None)]


def _place(header: Dataset, index: int) -> tuple[tuple[float, ...], ...]:
    """Position, orientation and spacing of a frame; empty where it does not say one."""
    where = (
        ("PlanePositionSequence", "ImagePositionPatient", 3),
        ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        ("PixelMeasuresSequence", "PixelSpacing", 2),
    )
    found = tuple(numbers(group(header, sequence, index), keyword) for sequence, keyword, _ in where)
    return found if all(len(one) == count for one, (_, _, count) in zip(found, where, strict=True)) else ()


def _same(one: Sequence[tuple[float, ...]], other: Sequence[tuple[float, ...]]) -> bool:
    if not one or not other:
        return False
    (position, orientation, spacing), (at, along, apart) = one, other
    return (
        _near(position, at, POSITION_TOLERANCE)
        and _near(orientation, along, DIRECTION_TOLERANCE)
        and _near(spacing, apart, DIRECTION_TOLERANCE * max(map(abs, apart)))
    )


def _near(one: tuple[float, ...], other: tuple[float, ...], tolerance: float) -> bool:
    """Plain numbers: numpy takes longer for so few."""
    return all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is missing. Raises BadAttribute."""
    value: Any = value_of(dataset, keyword)
    if value is None:
        return []
    with quiet():
        try:
            found = list(value)
        except MALFORMED as error:
            raise bad(keyword, f"must be a sequence ({type(error).__name__})") from None
    if not all(isinstance(one, Dataset) for one in found):
        raise bad(keyword, "must be a sequence")
    return found


def _refused(name: str, words: str) -> InvalidArgument:
    return InvalidArgument(f"{name}: {words}", (FieldViolation(name, words),))
