"""The Image Pixel module of an object, checked: sizes, bits, colour; and whether the object holds an image at all.

Knows PS3.3 C.7.6.3 and which SOP classes hold no image that may be segmented. Does not know how pixels are
decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import uid

from mediround.dicom.attributes import bad, texts, value_of, whole
from mediround.dicom.errors import NoImage, TooLarge
from mediround.dicom.limits import MAX_FRAME_PIXELS, MAX_FRAMES
from mediround.dicom.quiet import quiet
from mediround.dicom.source import PixelPlace, Source

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
PALETTE = "PALETTE COLOR"
COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
"""Those that become RGB."""

_SEGMENTATIONS = frozenset(
    {
        uid.SegmentationStorage,
        uid.UID("1.2.840.10008.5.1.4.1.1.66.7"),  # Label Map Segmentation Storage
        uid.SurfaceSegmentationStorage,
    }
)
_FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}


@dataclass(frozen=True, slots=True)
class PixelModule:
    """How an object's pixels lie there.

    Attributes:
        frames: their number.
        photometric: Photometric Interpretation.
        allocated: bits of a sample as it lies there.
        stored: bits of it that are used.
        high_bit: the highest of these.
        signed: whether they are two's complement.
        planar: Planar Configuration.
    """

    place: PixelPlace
    frames: int
    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    planar: int

    @property
    def colour(self) -> bool:
        return self.photometric not in GREY

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a sample, once decoded."""
        if self.place.keyword in _FLOATS:
            return np.dtype(f"f{self.allocated // 8}")
        return np.dtype(f"{'i' if self.signed else 'u'}{max(self.allocated // 8, 1)}")

    @property
    def frame_bits(self) -> int:
        """Of a frame that is not compressed."""
        bits = self.rows * self.columns * self.samples * self.allocated
        return bits // 3 * 2 if self.photometric == "YBR_FULL_422" else bits


def pixel_module(source: Source) -> PixelModule:
    """Raises NoImage, BadAttribute, TooLarge."""
    header, place = source.header, source.pixels
    with quiet():
        kind = uid.UID(str(value_of(header, "SOPClassUID") or ""))
    if kind in _SEGMENTATIONS:
        raise NoImage("the object is a segmentation: give the image that it refers to")
    if place is None:
        what = kind.name if kind.type == "SOP Class" else "of no known SOP class"
        raise NoImage(f"the object has no pixel data; it is {what}")
    rows, columns = whole(header, "Rows", 1, 65535), whole(header, "Columns", 1, 65535)
    if rows * columns > MAX_FRAME_PIXELS:
        raise TooLarge(f"a frame must have at most {MAX_FRAME_PIXELS} pixels")
    photometric = next(iter(texts(header, "PhotometricInterpretation")), "")
    if photometric not in GREY | COLOURS | {PALETTE}:
        raise bad("PhotometricInterpretation", f"must be one of {', '.join(sorted(GREY | COLOURS | {PALETTE}))}")
    samples = 3 if photometric in COLOURS else 1
    if whole(header, "SamplesPerPixel", 1, 65535, 1) != samples:
        raise bad("SamplesPerPixel", f"must be {samples} with this PhotometricInterpretation")
    allocated, stored, high_bit, signed = _bits(source, place)
    return PixelModule(
        place,
        whole(header, "NumberOfFrames", 1, MAX_FRAMES, 1),
        rows,
        columns,
        samples,
        photometric,
        allocated,
        stored,
        high_bit,
        signed,
        whole(header, "PlanarConfiguration", 0, 1, 0) if samples == 3 else 0,
    )


def _bits(source: Source, place: PixelPlace) -> tuple[int, int, int, bool]:
    """Allocated, stored, the highest, and whether there is a sign."""
    header = source.header
    if place.keyword in _FLOATS:
        bits = _FLOATS[place.keyword]
        return bits, bits, bits - 1, True
    allocated = whole(header, "BitsAllocated", 1, 64)
    if allocated not in {1, 8, 16, 32}:
        raise bad("BitsAllocated", "must be 1, 8, 16 or 32")
    stored = whole(header, "BitsStored", 1, 64, allocated)
    if stored > allocated:
        raise bad("BitsStored", f"must be at most BitsAllocated, {allocated}")
    high_bit = whole(header, "HighBit", 0, 63, stored - 1)
    if not stored - 1 <= high_bit < allocated:
        raise bad("HighBit", f"must be BitsStored - 1, {stored - 1}; older objects have up to {allocated - 1}")
    return allocated, stored, high_bit, whole(header, "PixelRepresentation", 0, 1, 0) == 1
