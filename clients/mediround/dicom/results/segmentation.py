"""Structures as Segmentation objects (SEG, PS3.3 A.51): a segment for each round that found something.

Knows the object. Does not know how frames and segments are shared out among objects, nor the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from mediround.dicom.attributes import texts
from mediround.dicom.errors import BadAttribute
from mediround.dicom.quiet import quiet
from mediround.dicom.results.equipment import algorithm, coded, equipment, long_string, stamp
from mediround.dicom.results.identity import content_digest, run_words, tracking_uid, uid
from mediround.dicom.results.parts import Part, shared_out
from mediround.dicom.results.segments import FrameKey, Origin, Provenance, Segment
from mediround.dicom.results.sources import Sources
from mediround.dicom.results.standins import put_names, standins
from mediround.dicom.results.terms import term_of
from mediround.errors import FieldViolation, InvalidArgument

_SERIES_NUMBER = 9001


class SegmentationType(Enum):
    """How segments are stored (Segmentation Type)."""

    BINARY = "BINARY"
    """A bit for each pixel of each segment: segments may overlap."""
    LABELMAP = "LABELMAP"
    """A number for each pixel: segments must not overlap. Few viewers read it."""


def write_seg(
    sources: Sequence[Dataset],
    segments: Sequence[Segment],
    provenance: Provenance,
    *,
    kind: SegmentationType = SegmentationType.BINARY,
    revises: Sequence[Dataset] = (),
) -> list[Dataset]:
    """The structures that were found, as SEG objects of one new series in the sources' study.

    One object, where it has at most 400 frames and the sources lie in a frame of reference; without one, an object
    for each frame. None for structures that were not found: an empty list where nothing was.

    Args:
        sources: headers of the objects of one series, in its order; pixel data is not looked at.
        segments: one for each round, in the order of the rounds.
        provenance: what found them.
        kind: how segments are stored.
        revises: the objects that these take the place of: they are named as referenced images.

    Raises:
        InvalidArgument: a mask is of no frame of the sources or of another size, the sources are of several
            series, sizes or orientations, or segments overlap and must not.
        BadAttribute: an attribute of the sources that a SEG cannot be without is missing or cannot be.
    """
    with quiet():
        parts = shared_out(segments, Sources(sources))
        written = [_write(part, number, provenance, kind) for number, part in enumerate(parts, start=1)]
        for each in written:
            _name_predecessors(each, revises)
    return written


def _write(part: Part, number: int, provenance: Provenance, kind: SegmentationType) -> Dataset:
    source = part.frames[0].header
    terms = [segment.term or term_of(segment.label) for segment in part.segments]
    digest = content_digest(part.segments, terms, provenance)
    pixels = _stacked(part) if kind is SegmentationType.BINARY else _label_map(part)
    try:
        built = hd.seg.Segmentation(
            source_images=standins(part.frames),
            pixel_array=pixels,
            segmentation_type=kind.value,
            segment_descriptions=[_description(part, index, provenance) for index in range(len(part.segments))],
            series_instance_uid=uid("series", "SEG", *run_words(source, provenance)),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=uid("SEG", *run_words(source, provenance), kind.value, digest),
            instance_number=number,
            content_label="AI_SEGMENTATION",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            specific_character_set="ISO_IR 192",
            **equipment(provenance),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        # Their words may hold values of the sources.
        raise BadAttribute("the sources' attributes do not make a segmentation") from None
    put_names(built, part.frames)
    if not part.frames[0].placed:
        built.PatientOrientation = list(texts(source, "PatientOrientation"))
    stamp(built, source, provenance, "segmentation")
    _name_segments_per_frame(built)
    return built


def _stacked(part: Part) -> npt.NDArray[np.bool_]:
    """(frames, Rows, Columns, segments)."""
    rows, columns = next(iter(part.segments[0].masks.values())).shape
    stacked = np.zeros((len(part.frames), rows, columns, len(part.segments)), np.bool_)
    for number, segment in enumerate(part.segments):
        for index, frame in enumerate(part.frames):
            if frame.key in segment.masks:
                stacked[index, :, :, number] = segment.masks[frame.key]
    return stacked


def _label_map(part: Part) -> npt.NDArray[np.uint16]:
    """(frames, Rows, Columns): the segment's number, 0 for none. Raises InvalidArgument where two overlap."""
    rows, columns = next(iter(part.segments[0].masks.values())).shape
    labels = np.zeros((len(part.frames), rows, columns), np.uint16)
    index_of: dict[FrameKey, int] = {frame.key: index for index, frame in enumerate(part.frames)}
    for number, segment in enumerate(part.segments, start=1):
        for key, mask in segment.masks.items():
            plane = labels[index_of[key]]
            if plane[mask].any():
                words = f"must not overlap in a LABELMAP, and round {segment.round}'s does: write BINARY"
                raise InvalidArgument(f"segments: {words}", (FieldViolation("segments", words),))
            plane[mask] = number
    return labels


def _description(part: Part, index: int, provenance: Provenance) -> hd.seg.SegmentDescription:
    segment, source = part.segments[index], part.frames[0].header
    term = segment.term or term_of(segment.label)
    description = hd.seg.SegmentDescription(
        segment_number=index + 1,
        segment_label=long_string(segment.label),
        segmented_property_category=coded(term.category),
        segmented_property_type=coded(term.type),
        algorithm_type=segment.origin.value,
        algorithm_identification=None if segment.origin is Origin.MANUAL else algorithm(provenance),
        tracking_uid=tracking_uid(source, provenance, segment.round),
        tracking_id=long_string(segment.label),
        display_color=_colour(segment.round),
    )
    description.SegmentDescription = _words(segment)
    if term.side is not None:
        modifier = hd.sr.CodedConcept.from_code(coded(term.side))
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description


def _words(segment: Segment) -> str:
    """What of the round no attribute has a place for."""
    score = "" if segment.score is None else f", estimated IoU {segment.score:.2f}"
    return f"round {segment.round}{score}{', corrected' if segment.corrected else ''}"


def _colour(round_index: int) -> CIELabColor:
    """A hue of its own for each round, around the circle by the golden angle."""
    angle = np.deg2rad(40 + 137.508 * round_index)
    return CIELabColor(65.0, float(60 * np.cos(angle)), float(60 * np.sin(angle)))


def _name_predecessors(built: Dataset, revised: Sequence[Dataset]) -> None:
    """As images that it refers to: a SEG has no attribute for what it takes the place of, as a report has."""
    for earlier in revised:
        if earlier.SOPInstanceUID == built.SOPInstanceUID:
            continue  # nothing has changed
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = earlier.SOPClassUID, earlier.SOPInstanceUID
        built.ReferencedImageSequence = [*(built.get("ReferencedImageSequence") or []), item]
        series = Dataset()
        series.SeriesInstanceUID, series.ReferencedInstanceSequence = earlier.SeriesInstanceUID, [item]
        built.ReferencedSeriesSequence.append(series)


def _name_segments_per_frame(built: Dataset) -> None:
    """highdicom names an only segment in the shared groups, where some readers, its own too, do not look."""
    shared = built.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" in shared:
        only = shared.SegmentIdentificationSequence
        del shared.SegmentIdentificationSequence
        for group in built.PerFrameFunctionalGroupsSequence:
            group.SegmentIdentificationSequence = only
