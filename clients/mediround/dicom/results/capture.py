"""Structures as pictures (Secondary Capture): for archives and viewers that show nothing else.

Masks are drawn into the pixels, with their names and a disclaimer. Knows the object and the drawing. A picture is
for people to look at: masks are read from the SEG.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from mediround.dicom.attributes import text
from mediround.dicom.instance import Frame
from mediround.dicom.quiet import quiet
from mediround.dicom.results.equipment import equipment, long_string, parameters, stamp
from mediround.dicom.results.identity import content_digest, run_words, uid
from mediround.dicom.results.segments import Bits, FrameKey, Provenance, Segment
from mediround.dicom.results.sources import SourceFrame, Sources
from mediround.dicom.results.standins import identity
from mediround.dicom.results.terms import term_of

U8 = npt.NDArray[np.uint8]
BURNED_IN = "NOT FOR DIAGNOSIS"
LEAST_SIDE = 512
"""Pixels of a picture's longer side: smaller images are enlarged by a whole number, so that words can be read."""
_SERIES_NUMBER = 9003
_PARAMETER_CHARACTERS = 1024
"""Of a short text (ST)."""


def write_sc(
    sources: Sequence[Dataset],
    segments: Sequence[Segment],
    provenance: Provenance,
    frames: Mapping[FrameKey, Frame],
) -> list[Dataset]:
    """A picture of each of the frames on which something was found, as RGB, in the series' order.

    Args:
        sources: as for ``write_seg``.
        segments: as for ``write_seg``.
        provenance: as for ``write_seg``.
        frames: as they were shown to the model (``Instance.frame``).

    Raises:
        InvalidArgument: as ``write_seg`` does, or a mask is not of its frame's Rows and Columns.
    """
    pictures = Pictures(sources, provenance)
    found = {key for segment in segments for key, mask in segment.masks.items() if mask.any()}
    places = pictures.sources.ordered(found & set(frames))
    return [
        pictures.of(place.key, frames[place.key], segments, number) for number, place in enumerate(places, start=1)
    ]


class Pictures:
    """The same, one after the other: of sources whose frames are listed once, however many there are."""

    def __init__(self, sources: Sequence[Dataset], provenance: Provenance) -> None:
        """Raises as ``write_sc`` does."""
        with quiet():
            self.sources, self._provenance = Sources(sources), provenance

    @property
    def header(self) -> Dataset:
        """Of the first source."""
        return self.sources.first

    def of(self, key: FrameKey, frame: Frame, segments: Sequence[Segment], number: int) -> Dataset:
        """The picture of one frame; ``number``: in its series, from 1. Raises as ``write_sc`` does."""
        with quiet():
            return _write(self.sources[key], number, frame, segments, self._provenance)


def _write(
    place: SourceFrame, number: int, frame: Frame, segments: Sequence[Segment], provenance: Provenance
) -> Dataset:
    source, here = place.header, [segment for segment in segments if place.key in segment.masks]
    digest = content_digest(here, [segment.term or term_of(segment.label) for segment in here], provenance)
    made, pixels = identity(source), drawn(frame, here, place.key)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SpecificCharacterSet, made.Modality, made.ConversionType = "ISO_IR 192", "OT", "WSD"
    made.SOPClassUID = SecondaryCaptureImageStorage
    made.SOPInstanceUID = uid("SC", *run_words(source, provenance), *map(str, place.key), digest)
    made.SeriesInstanceUID = uid("series", "SC", *run_words(source, provenance))
    made.SeriesNumber, made.InstanceNumber = _SERIES_NUMBER, number
    made.ImageType, made.BurnedInAnnotation = ["DERIVED", "SECONDARY"], "YES"
    made.PatientOrientation, made.Laterality = _orientation(place), text(source, "Laterality")
    for keyword, value in equipment(provenance).items():
        setattr(made, "".join(part.capitalize() for part in keyword.split("_")), value)
    said = "; ".join(f"{name}={value}" for name, value in parameters(provenance).items())
    made.DerivationDescription = said[:_PARAMETER_CHARACTERS]
    reference = Dataset()
    reference.ReferencedSOPClassUID = text(source, "SOPClassUID")
    reference.ReferencedSOPInstanceUID = place.key[0]
    if place.multiframe:
        reference.ReferencedFrameNumber = place.key[1]
    made.SourceImageSequence = [reference]
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    stamp(made, source, provenance, "pictures")
    return made


def drawn(frame: Frame, segments: Sequence[Segment], key: FrameKey) -> U8:
    """RGB (H, W, 3): the frame, each mask tinted and outlined, their names, and that it is not for diagnosis."""
    image = frame.image if frame.image.ndim == 3 else np.repeat(frame.image[..., None], 3, 2)
    scale = max(1, -(-LEAST_SIDE // max(image.shape[:2])))
    picture = np.ascontiguousarray(image.repeat(scale, 0).repeat(scale, 1))
    for segment in segments:
        mask = frame.from_stored(segment.masks[key]).repeat(scale, 0).repeat(scale, 1)
        picture[mask] = (0.65 * picture[mask] + 0.35 * np.array(colour(segment.round))).astype(np.uint8)
        picture[mask & ~_inside(mask)] = colour(segment.round)
    canvas = Image.fromarray(picture)
    draw, size = ImageDraw.Draw(canvas), max(14, canvas.width // 36)
    font = ImageFont.load_default(size=size)
    lines = [(BURNED_IN, (255, 255, 255))]
    lines += [(f"{one.round} {long_string(one.label)}", colour(one.round)) for one in segments]
    top = 4
    for line, ink in lines:
        draw.text((4, top), line, ink, font, stroke_width=2, stroke_fill=(0, 0, 0))
        top += size * 13 // 10
    return np.asarray(canvas)


def colour(round_index: int) -> tuple[int, int, int]:
    """RGB: a hue of its own for each round, around the circle by the golden angle."""
    red, green, blue = colorsys.hsv_to_rgb((0.11 + 0.381966 * round_index) % 1, 0.85, 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def _inside(mask: Bits) -> Bits:
    """Pixels whose four neighbours are in the mask."""
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _orientation(place: SourceFrame) -> list[str] | str:
    """Where rows and columns go, by the axis that is nearest (PS3.3 C.7.6.1.1.1); empty where it is not known."""
    cosines = place.place.get("ImageOrientationPatient")
    if not cosines:
        return ""
    letters = []
    for direction in (cosines[:3], cosines[3:]):
        axis = int(np.argmax(np.abs(np.asarray(direction, float))))
        letters.append("RAF"[axis] if float(direction[axis]) < 0 else "LPH"[axis])
    return letters
