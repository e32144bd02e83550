"""The report: complete, preliminary, unverified; a size and a score for what was found, a line for what was not.

Whether it is valid is ``tests/pacs``'s.
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from mediround.dicom.results import Segment, SegmentationType, encode, parts, write_seg, write_sr
from mediround.errors import InvalidArgument
from tests.unit.client.dicom.series import PROVENANCE, cine, keys, mask, stack

SLICES = stack(6)
NAMES = keys(SLICES)
ROUNDS = [
    Segment("left thalamus", {NAMES[0]: mask(1), NAMES[3]: mask(2)}, 0, 0.912345),
    Segment("tumour", {NAMES[2]: mask(3)}, 1),
    Segment("nothing of the kind", {NAMES[2]: np.zeros_like(mask(3))}, 2),
]


def written(sources: list[Dataset], rounds: list[Segment], **more: Any) -> Dataset:
    return write_sr(sources, rounds, PROVENANCE, write_seg(sources, rounds, PROVENANCE), **more)


def measured(report: Dataset) -> list[dict[str, tuple[float, str]]]:
    """Of each group: value and unit by the measurement's meaning."""
    read = hd.sr.Comprehensive3DSR.from_dataset(pydicom.dcmread(BytesIO(encode(report))))
    groups = read.content.get_volumetric_roi_measurement_groups()
    values = [
        [(one.name.meaning, (one.value, one.unit.value)) for one in group.get_measurements()] for group in groups
    ]
    return list(map(dict, values))


def lines(report: Dataset) -> list[str]:
    """The texts of its qualitative evaluations."""
    containers = [item for item in report.ContentSequence if item.ValueType == "CONTAINER"]
    names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in containers]
    if "Qualitative Evaluations" not in names:
        return []
    return [item.TextValue for item in containers[names.index("Qualitative Evaluations")].ContentSequence]


def test_volumes_areas_and_scores() -> None:
    score = "Estimated intersection over union of the mask"
    pixels = int(mask(1).sum() + mask(2).sum())
    volume, area = measured(written(SLICES, ROUNDS))
    # 2 mm x 0.5 mm pixels on slices 3 mm apart.
    assert volume == {"Volume": (pytest.approx(pixels * 3 / 1000), "cm3"), score: (0.9123, "1")}
    assert area == {"Area": (pytest.approx(int(mask(3).sum())), "mm2")}


@pytest.mark.parametrize("kind", SegmentationType)
def test_a_structure_in_several_objects_has_its_whole_volume_once(
    kind: SegmentationType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MOST_FRAMES", 2)
    rounds = [Segment("liver", {NAMES[place]: mask(1) for place in range(5)}, 0, 0.9), ROUNDS[1]]
    segs = write_seg(SLICES, rounds, PROVENANCE, kind=kind)
    assert len(segs) > 2
    report = write_sr(SLICES, rounds, PROVENANCE, segs)
    volume, *others, area = measured(report)
    assert volume["Volume"][0] == pytest.approx(int(mask(1).sum()) * 5 * 3 / 1000)
    assert len(volume) == 2
    assert others == [{}, {}]
    assert area["Area"][0] == int(mask(3).sum())
    groups = hd.sr.Comprehensive3DSR.from_dataset(report).content.get_volumetric_roi_measurement_groups()
    assert len({(one.referenced_segment.referenced_sop_instance_uid) for one in groups[:3]}) == 3
    assert len({one.tracking_uid for one in groups}) == 2


def test_volumes_over_time_are_each_their_own() -> None:
    later = stack(6)
    for place, header in enumerate(later):
        header.SOPInstanceUID = f"1.2.3.{place + 1}"
    sources = [*SLICES, *later]
    rounds = [Segment("liver", {key: mask(1) for key in keys(sources)})]
    volumes = [one["Volume"][0] for one in measured(written(sources, rounds))]
    assert volumes == [pytest.approx(int(mask(1).sum()) * 6 * 3 / 1000)] * 2


def test_what_was_not_found_is_a_line_and_no_group() -> None:
    report = written(SLICES, ROUNDS)
    assert lines(report) == ["Not found by the algorithm: nothing of the kind (round 2)"]
    only = written(SLICES, ROUNDS[2:])
    assert lines(only) == lines(report)
    assert measured(only) == []
    assert lines(written(SLICES, ROUNDS[:2])) == []


def test_its_state_is_that_of_what_nobody_has_looked_at() -> None:
    report = written(SLICES, ROUNDS)
    flags = (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag)
    assert flags == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")
    assert report.SeriesDescription.startswith("AI, not for diagnosis")
    assert report.PatientName == "Doe^Jane"
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    referred = {one.ReferencedSOPInstanceUID for series in evidence for one in series.ReferencedSOPSequence}
    [seg] = write_seg(SLICES, ROUNDS, PROVENANCE)
    assert referred == {uid for uid, _ in NAMES} | {seg.SOPInstanceUID}


def test_bytes_repeat_and_a_revised_report_names_its_predecessor() -> None:
    first, again = written(SLICES, ROUNDS), written(SLICES, ROUNDS)
    assert encode(first) == encode(again)
    revised = written(SLICES, [replace(ROUNDS[0], score=0.5), *ROUNDS[1:]], revises=[first])
    assert revised.SOPInstanceUID != first.SOPInstanceUID
    [study] = revised.PredecessorDocumentsSequence
    [earlier] = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert earlier.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert "PredecessorDocumentsSequence" not in written(SLICES, ROUNDS, revises=[first])


def test_frames_that_lie_nowhere_are_measured_in_pixels() -> None:
    source = cine(10)
    names = keys([source])
    rounds = [Segment("left ventricle", {names[1]: mask(1), names[5]: mask(2)}, 0)]
    areas = [one["Area"] for one in measured(written([source], rounds))]
    assert areas == [(int(mask(1).sum()), "{pixels}"), (int(mask(2).sum()), "{pixels}")]


def test_segments_of_a_label_map_are_measured_on_their_own_frames() -> None:
    rounds = [Segment("a", {NAMES[0]: mask(1), NAMES[1]: mask(2)}), Segment("b", {NAMES[0]: ~mask(1)}, 1)]
    segs = write_seg(SLICES, rounds, PROVENANCE, kind=SegmentationType.LABELMAP)
    volume, area = measured(write_sr(SLICES, rounds, PROVENANCE, segs))
    assert volume["Volume"][0] == pytest.approx(int(mask(1).sum() + mask(2).sum()) * 3 / 1000)
    assert area["Area"] == (int((~mask(1)).sum()), "mm2")


def test_a_report_is_about_its_own_segments() -> None:
    others = write_seg(SLICES, ROUNDS[:1], PROVENANCE)
    for segs in ([], others, write_seg(SLICES, [*ROUNDS, replace(ROUNDS[0], round=7)], PROVENANCE)):
        with pytest.raises(InvalidArgument, match="segs: must be what write_seg made"):
            write_sr(SLICES, ROUNDS, PROVENANCE, segs)
    with pytest.raises(InvalidArgument, match="segments: must hold a round"):
        write_sr(SLICES, [], PROVENANCE, [])
