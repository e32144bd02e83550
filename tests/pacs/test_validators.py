"""Every kind of object that is written passes the validators, and what is broken on purpose does not."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from demo.dicom.validators import iod_errors, template_errors
from mediround.dicom import read
from mediround.dicom.results import Segment, SegmentationType, encode, parts, write_sc, write_seg, write_sr
from tests.pacs.programs import program
from tests.unit.client.dicom.series import PROVENANCE, cine, enhanced, keys, mask, stack

SLICES = stack(4)
NAMES = keys(SLICES)
ROUNDS = [
    Segment("left thalamus", {NAMES[0]: mask(1), NAMES[2]: mask(2)}, 0, 0.9),
    Segment("tumour", {NAMES[2]: mask(3)}, 1, 0.25, corrected=True),
    Segment("nothing of the kind", {}, 2),
]


def objects() -> dict[str, Dataset]:
    """One of each kind, by name."""
    source, film = enhanced(3), cine(5)
    frames, pictures = keys([source]), keys([film])
    segs = write_seg(SLICES, ROUNDS, PROVENANCE)
    report = write_sr(SLICES, ROUNDS, PROVENANCE, segs)
    single = [Segment("left ventricle", {pictures[2]: mask(1)}, 0, 0.5)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "MOST_FRAMES", 1)
        pieces = write_seg(SLICES, ROUNDS, PROVENANCE)
    [still] = write_seg([film], single, PROVENANCE)
    fewer = write_seg(SLICES, ROUNDS[:1], PROVENANCE, revises=segs)
    image = read(str(get_testdata_file("CT_small.dcm")))
    key = (str(image.header.SOPInstanceUID), 1)
    liver = [Segment("liver", {key: mask(5, 128, 128)})]
    [pictured] = write_sc([image.header], liver, PROVENANCE, {key: image.frame(window=(40, 400))})
    return {
        "binary": segs[0],
        "revised": fewer[0],
        "label map": write_seg(SLICES, ROUNDS[1:], PROVENANCE, kind=SegmentationType.LABELMAP)[0],
        "enhanced": write_seg([source], [Segment("liver", {frames[1]: mask(4)})], PROVENANCE)[0],
        "cine": still,
        "report": report,
        "revised report": write_sr(SLICES, ROUNDS[:1], PROVENANCE, fewer, revises=[report]),
        "report of pieces": write_sr(SLICES, ROUNDS, PROVENANCE, pieces),
        "report of a cine": write_sr([film], single, PROVENANCE, [still]),
        "report of nothing": write_sr(SLICES, ROUNDS[2:], PROVENANCE, []),
        "picture": pictured,
    }


@pytest.fixture(scope="module")
def written() -> dict[str, Dataset]:
    return objects()


@pytest.fixture(autouse=True)
def validators() -> None:
    program("dciodvfy"), program("java")


def saved(dataset: Dataset, directory: Path, name: str = "object") -> Path:
    path = directory / f"{name}.dcm"
    path.write_bytes(encode(dataset))
    return path


def test_every_object_is_a_valid_iod(written: dict[str, Dataset], tmp_path: Path) -> None:
    found = {name: iod_errors(saved(one, tmp_path)) for name, one in written.items()}
    assert found == {name: [] for name in written}


def test_a_segmentation_without_its_references_is_not(written: dict[str, Dataset], tmp_path: Path) -> None:
    broken = copy.deepcopy(written["binary"])
    del broken.ReferencedSeriesSequence
    assert any("ReferencedSeriesSequence" in error for error in iod_errors(saved(broken, tmp_path)))


def test_a_report_fits_its_template_and_one_without_its_segment_does_not(
    written: dict[str, Dataset], tmp_path: Path
) -> None:
    """Groups with a size, and the further pieces' without."""
    broken = copy.deepcopy(written["report of pieces"])
    [measurements] = [
        item
        for item in broken.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    ]
    group = measurements.ContentSequence[0]
    group.ContentSequence = [item for item in group.ContentSequence if item.ValueType != "IMAGE"]
    good, bad = saved(written["report of pieces"], tmp_path, "good"), saved(broken, tmp_path, "bad")
    found = template_errors([good, bad])
    assert found[good] == []
    assert any("Referenced Segment" in error for error in found[bad])
