"""Structures as a structured report (TID 1500, Comprehensive 3D SR): what was measured, and what was not found.

Complete, preliminary, unverified: what a person has yet to look at. Knows the report. Its measurements refer to
segments of SEG objects, which are written first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import ExplicitVRLittleEndian

from mediround.dicom.attributes import text
from mediround.dicom.errors import BadAttribute
from mediround.dicom.quiet import quiet
from mediround.dicom.results.equipment import MANUFACTURER, coded, equipment, long_string, parameters, stamp
from mediround.dicom.results.identity import content_digest, run_words, tracking_uid, uid
from mediround.dicom.results.measures import Size, size_of, slice_step
from mediround.dicom.results.parts import layers
from mediround.dicom.results.segments import FrameKey, Origin, Provenance, Segment
from mediround.dicom.results.sources import Sources
from mediround.dicom.results.standins import NAMES, identity
from mediround.dicom.results.terms import term_of
from mediround.errors import FieldViolation, InvalidArgument

SCORE = PydicomCode("IOU_ESTIMATE", "99MEDIROUND", "Estimated intersection over union of the mask")
"""The judge's score; PS3.16 has no code for it."""
_PIXELS = PydicomCode("{pixels}", "UCUM", "pixels")
_UNITS = {"cm3": codes.UCUM.CubicCentimeter, "mm2": codes.UCUM.SquareMillimeter, "pixels": _PIXELS}
_PROCEDURES = {
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "CR": codes.LN.XRUnspecifiedBodyRegion,
    "DX": codes.LN.XRUnspecifiedBodyRegion,
}
_SERIES_NUMBER = 9002
_Group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations
_EVALUATIONS = PydicomCode("C0034375", "UMLS", "Qualitative Evaluations")


@dataclass(frozen=True, slots=True)
class _Written:
    """A segment of a SEG object, and the frames that it is on."""

    seg: Dataset
    number: int
    frames: set[FrameKey]
    """Of the sources: in a LABELMAP those of all segments."""


def write_sr(
    sources: Sequence[Dataset],
    segments: Sequence[Segment],
    provenance: Provenance,
    segs: Sequence[Dataset],
    *,
    revises: Sequence[Dataset] = (),
) -> Dataset:
    """A report of all rounds: for each that found something its size and score, for the others that they did not.

    Args:
        sources: as for ``write_seg``.
        segments: as for ``write_seg``.
        provenance: as for ``write_seg``.
        segs: what ``write_seg`` made of the same.
        revises: the reports that this one takes the place of (Predecessor Documents).

    Raises:
        InvalidArgument: there is no segment, ``segs`` are of other segments, or as ``write_seg`` does.
        BadAttribute: as ``write_seg`` does.
    """
    if not segments:
        raise _refused("segments", "must hold a round, found or not")
    with quiet():
        return _write(Sources(sources), segments, provenance, segs, revises)


def _write(
    sources: Sources,
    segments: Sequence[Segment],
    provenance: Provenance,
    segs: Sequence[Dataset],
    revises: Sequence[Dataset],
) -> Dataset:
    source, terms = sources.first, [segment.term or term_of(segment.label) for segment in segments]
    digest = content_digest(segments, terms, provenance)
    instance = uid("SR", *run_words(source, provenance), digest, *(str(seg.SOPInstanceUID) for seg in segs))
    content = _content(sources, segments, provenance, segs)
    earlier = [one for one in revises if one.SOPInstanceUID != instance]
    try:
        built = hd.sr.Comprehensive3DSR(
            evidence=[*_evidence(sources.headers), *segs],
            content=content,
            series_instance_uid=uid("series", "SR", *run_words(source, provenance)),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=instance,
            instance_number=1 + len(revises),
            is_complete=True,
            is_final=False,
            is_verified=False,
            previous_versions=earlier or None,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            specific_character_set="ISO_IR 192",
            **equipment(provenance),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadAttribute("the sources' attributes do not make a report") from None
    names = identity(source)
    for keyword in NAMES:
        setattr(built, keyword, names.get(keyword))
    stamp(built, source, provenance, "measurements")
    return built


def _content(
    sources: Sources, segments: Sequence[Segment], provenance: Provenance, segs: Sequence[Dataset]
) -> hd.sr.MeasurementReport:
    groups = list(_groups(sources, segments, provenance, segs))
    nothing = [segment for segment in segments if not any(mask.any() for mask in segment.masks.values())]
    report = hd.sr.MeasurementReport(
        observation_context=_context(provenance),
        procedure_reported=_PROCEDURES.get(text(sources.first, "Modality"), codes.SCT.ImagingProcedure),
        imaging_measurements=groups or [_placeholder(sources.first, provenance)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    items = report[0].ContentSequence
    if not groups:
        del items[-1]  # highdicom wants a measurement; TID 1500 is content with evaluations
    if nothing:
        items.append(_not_found(nothing))
    return report


def _context(provenance: Provenance) -> hd.sr.ObservationContext:
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=uid("device", provenance.model_digest),
        name=long_string(provenance.model_name),
        manufacturer_name=MANUFACTURER,
        model_name=long_string(provenance.model_name),
        serial_number=provenance.engine_digest or provenance.model_digest,
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return hd.sr.ObservationContext(observer_device_context=observer)


def _evidence(headers: Sequence[Dataset]) -> Iterator[Dataset]:
    """What refers to the sources; highdicom takes patient and study from the first."""
    for number, header in enumerate(headers):
        made = Dataset() if number else identity(header)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
            setattr(made, keyword, text(header, keyword))
        if not number:
            for keyword in NAMES:
                setattr(made, keyword, "")
        yield made


def _groups(
    sources: Sources, segments: Sequence[Segment], provenance: Provenance, segs: Sequence[Dataset]
) -> Iterator[_Group]:
    """One for each segment of an object. Where a structure is cut into several, the first has its whole size."""
    written, step = _by_tracking_uid(segs), slice_step(sources.ordered())
    found = [{key for key, mask in segment.masks.items() if mask.any()} for segment in segments]
    shared = layers(sources.ordered({key for keys in found for key in keys}))
    layer_of = {frame.key: layer for layer, frames in enumerate(shared) for frame in frames}
    for segment, keys in zip(segments, found, strict=True):
        parts = written.pop(str(tracking_uid(sources.first, provenance, segment.round)), [])
        covered = {key for part in parts for key in part.frames}
        if not keys <= covered or any(keys.isdisjoint(part.frames) for part in parts):
            raise _refused("segs", "must be what write_seg made of the same segments")
        measured: set[int] = set()
        for part in parts:
            layer = layer_of[next(iter(keys & part.frames))]
            frames = [] if layer in measured else [frame for frame in shared[layer] if frame.key in keys]
            measured.add(layer)
            yield _group(
                sources, segment, part, size_of(segment.masks, frames, step) if frames else None, provenance
            )
    if written:
        raise _refused("segs", "must be what write_seg made of the same segments")


def _by_tracking_uid(segs: Sequence[Dataset]) -> dict[str, list[_Written]]:
    found: dict[str, list[_Written]] = {}
    for seg in segs:
        frames: dict[int | None, set[FrameKey]] = {}
        for group in seg.PerFrameFunctionalGroupsSequence:
            item = group.DerivationImageSequence[0].SourceImageSequence[0]
            key = str(item.ReferencedSOPInstanceUID), int(item.get("ReferencedFrameNumber") or 1)
            identification = group.get("SegmentIdentificationSequence")
            number = int(identification[0].ReferencedSegmentNumber) if identification else None
            frames.setdefault(number, set()).add(key)
        for item in seg.SegmentSequence:
            if "TrackingUID" in item:  # the background of a LABELMAP has none
                number = int(item.SegmentNumber)
                part = _Written(seg, number, frames.get(number, frames.get(None, set())))
                found.setdefault(str(item.TrackingUID), []).append(part)
    return found


def _group(
    sources: Sources, segment: Segment, part: _Written, size: Size | None, provenance: Provenance
) -> _Group:
    """TID 1411, on one plane too: PixelMed's validator takes no report in which groups are of several kinds."""
    header = sources.first
    region = hd.sr.ReferencedSegment(
        part.seg.SOPClassUID,
        part.seg.SOPInstanceUID,
        part.number,
        source_series=hd.sr.SourceSeriesForSegmentation(text(header, "SeriesInstanceUID")),
    )
    return _Group(
        **_common(header, segment, provenance),
        referenced_segment=region,
        measurements=None if size is None else _measurements(segment, size),
    )


def _not_found(segments: Sequence[Segment]) -> hd.sr.ContainerContentItem:
    """A line for each round that found nothing: a SEG has no empty segment."""
    container = hd.sr.ContainerContentItem(_EVALUATIONS, relationship_type="CONTAINS")
    lines = [
        f"Not found by the algorithm: {long_string(segment.label)} (round {segment.round})" for segment in segments
    ]
    container.ContentSequence = hd.sr.ContentSequence(
        [hd.sr.TextContentItem(codes.DCM.Finding, line, relationship_type="CONTAINS") for line in lines]
    )
    return container


def _placeholder(source: Dataset, provenance: Provenance) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    tracking = hd.sr.TrackingIdentifier(uid=tracking_uid(source, provenance, 0), identifier="none")
    finding = hd.sr.QualitativeEvaluation(name=codes.DCM.Finding, value=codes.DCM.NotVisualized)
    return hd.sr.MeasurementsAndQualitativeEvaluations(tracking, qualitative_evaluations=[finding])


class _Common(TypedDict):
    """Arguments of every group."""

    tracking_identifier: hd.sr.TrackingIdentifier
    finding_type: PydicomCode
    finding_category: PydicomCode
    finding_sites: list[hd.sr.FindingSite] | None
    algorithm_id: hd.sr.AlgorithmIdentification | None


def _common(source: Dataset, segment: Segment, provenance: Provenance) -> _Common:
    term = segment.term or term_of(segment.label)
    side = None if term.side is None else coded(term.side)
    tracking = hd.sr.TrackingIdentifier(
        uid=tracking_uid(source, provenance, segment.round), identifier=long_string(segment.label)
    )
    return {
        "tracking_identifier": tracking,
        "finding_type": coded(term.type),
        "finding_category": coded(term.category),
        "finding_sites": [hd.sr.FindingSite(coded(term.type), laterality=side)] if side else None,
        "algorithm_id": None if segment.origin is Origin.MANUAL else _algorithm(provenance),
    }


def _algorithm(provenance: Provenance) -> hd.sr.AlgorithmIdentification:
    return hd.sr.AlgorithmIdentification(
        name=long_string(provenance.model_name),
        version=long_string(provenance.model_version),
        parameters=[f"{name}={value}" for name, value in parameters(provenance).items()],
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
    )


def _measurements(segment: Segment, size: Size) -> list[hd.sr.Measurement]:
    name = codes.SCT.Volume if size.unit == "cm3" else codes.SCT.Area
    found = [hd.sr.Measurement(name=name, value=round(size.value, 4), unit=_UNITS[size.unit])]
    if segment.score is not None:
        found.append(hd.sr.Measurement(name=SCORE, value=round(segment.score, 4), unit=codes.UCUM.NoUnits))
    return found


def _refused(field: str, words: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {words}", (FieldViolation(field, words),))
