"""What is made of an index: masks, COCO, label maps and SEG say what its rows say, a second time the same."""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pydicom.data import get_testdata_file

from mediround import rle
from mediround.__main__ import main
from mediround._records import RuntimeRecord
from mediround.annotate.files import UNFINISHED, locked
from mediround.annotate.index import read_parts, write_part
from mediround.annotate.job import Job
from mediround.annotate.outputs.segmentations import segmentations
from mediround.annotate.results import Result, results
from mediround.annotate.rows import rows_of
from mediround.annotate.sorting import grouped
from mediround.dicom import read, read_segmentation
from mediround.dicom.results import encode
from mediround.testing import DESCRIPTION, Script, ScriptedServer, serve
from tests.unit.client.annotate.jobs import QUESTIONS, answered, disc, job_of, keep, picture


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with serve(Script()) as running:
        yield running


@pytest.fixture(scope="module")
def job(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of which one fails, and ten frames of an enhanced MR, finished."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        held = io.BytesIO()
        Image.fromarray(np.full((16, 24, 3), (number, 7, 9), np.uint8)).save(held, "PNG")
        (folder / f"{number}.png").write_bytes(held.getvalue() if number else b"\x89PNG\r\n\x1a\n")
    for name in ("emri_small.dcm", "CT_small.dcm"):
        (folder / name).write_bytes(Path(str(get_testdata_file(name))).read_bytes())
    made = folder.parent / f"{folder.name}-job"
    words = ["--job", str(made), "--server", server.address]
    assert main(["annotate", "plan", str(folder), "--template", "brain-t1-thalami", *words]) == 0
    assert main(["annotate", "run", *words]) in (0, 3)
    return made


def export(job: Path, *more: str) -> int:
    return main(["annotate", "export", "--job", str(job), *more])


def found(job: Path) -> list[Result]:
    opened = Job.open(job)
    return list(results(opened, opened.current()))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_are_the_indexs_in_the_manifests_order(job: Path) -> None:
    run = Job.open(job).current()
    rows = [row for _, table in read_parts(run.index) for row in rows_of(table)]
    joined = [row for each in found(job) for row in each.rows]
    assert sorted(joined, key=lambda row: (row.item_id, row.round)) == sorted(
        rows, key=lambda row: (row.item_id, row.round)
    )
    assert all([row.round for row in each.rows] == list(range(len(each.rows))) for each in found(job))


def test_masks_are_pictures_of_the_rows(job: Path) -> None:
    assert export(job, "--png") == 0
    folder = Job.open(job).current().folder / "masks"
    rows = [row for each in found(job) for row in each.rows if row.counts is not None]
    assert rows
    for row in rows:
        with Image.open(folder / row.item_id[:2] / f"{row.item_id}-{row.round:02}-{row.name}.png") as picture:
            assert np.array_equal(
                np.asarray(picture), rle.decode((row.counts or "").encode(), row.height, row.width)
            )
    assert len(files(folder)) == len(rows)


@pytest.mark.parametrize("name", ["/../../../../out", "a/b", "A", "", "a" * 65])
def test_a_questions_name_leads_to_no_other_folder(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    item = picture(tmp_path / "images", 0)
    made, run = job_of(tmp_path / "job", [item])
    keep(run, [replace(row, name=name) for row in answered(item, run, (disc(5), disc(3)))])
    before = set(tmp_path.rglob("*.png"))
    assert export(made.folder, "--png") == 2
    assert "a name that no plan gives" in capsys.readouterr().err
    assert set(tmp_path.rglob("*.png")) == before


def test_coco_is_what_cocos_own_tools_compute(job: Path) -> None:
    assert export(job, "--coco") == 0
    data = json.loads((Job.open(job).current().folder / "coco.json").read_text())
    assert {each["image_id"] for each in data["annotations"]} <= {each["id"] for each in data["images"]}
    assert {each["name"] for each in data["categories"]} >= {"left thalamus"}
    for each in data["annotations"]:
        assert coco_mask.area(each["segmentation"]) == each["area"]
        assert coco_mask.toBbox(each["segmentation"]).tolist() == each["bbox"]


def test_label_maps_lie_on_the_images_that_were_asked(job: Path) -> None:
    assert export(job, "--labels") == 3, "one image failed"
    folder = Job.open(job).current().folder / "labels"
    described = json.loads((folder / "dataset.json").read_text())
    cases = sorted(path.name.removesuffix(".png") for path in (folder / "labelsTr").iterdir())
    assert described["numTraining"] == len(cases)
    assert sorted(described["labels"].values()) == list(range(len(described["labels"])))
    for case in cases:
        with (
            Image.open(folder / f"labelsTr/{case}.png") as labels,
            Image.open(folder / f"imagesTr/{case}_0000.png") as image,
        ):
            assert labels.size == image.size
            assert (labels.mode, image.mode) == ("L", "RGB")
            assert set(np.unique(np.asarray(labels))) <= set(described["labels"].values())


def test_a_mask_of_the_background_is_background(tmp_path: Path) -> None:
    item = picture(tmp_path / "images", 0, (QUESTIONS[0], replace(QUESTIONS[1], label="background")))
    made, run = job_of(tmp_path / "job", [item])
    keep(run, answered(item, run, (disc(5), disc(3))))
    assert export(made.folder, "--labels") == 0
    labels = json.loads((run.folder / "labels" / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "Liver": 1}
    [path] = (run.folder / "labels" / "labelsTr").iterdir()
    with Image.open(path) as drawn:
        assert np.array_equal(np.asarray(drawn), disc(5) & ~disc(3))


def test_a_series_masks_are_read_back_from_its_objects(job: Path, tmp_path: Path) -> None:
    assert export(job, "--seg") == 0
    objects = [read_segmentation(path) for path in (Job.open(job).current().folder / "seg").rglob("*.dcm")]
    asked = [each for each in found(job) if each.item.kind == "dicom"]
    assert len(asked) == 11
    checked = 0
    for each in asked:
        name = "emri_small.dcm" if each.item.frame else "CT_small.dcm"
        image = read(str(get_testdata_file(name)))
        frame = each.item.frame or 1
        for row in each.rows:
            mask = rle.decode((row.counts or "").encode(), row.height, row.width)
            stored = image.frame(frame).to_stored(mask)
            back = [
                one.mask(segment.number, image, frame)
                for one in objects
                for segment in one.segments
                if segment.label == row.label
            ]
            assert any(one is not None and np.array_equal(one, stored) for one in back)
            checked += 1
    assert checked == 33


def test_an_object_says_what_computed_its_masks(job: Path) -> None:
    """The record of the engine; and of a run that another engine went on with, those of both."""
    assert export(job, "--seg") == 0
    opened = Job.open(job)
    [path, *_] = sorted((opened.current().folder / "seg").rglob("*.dcm"))
    held = pydicom.dcmread(path)
    [record] = DESCRIPTION.engine_records
    parameters = held.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert held.DeviceSerialNumber == record.digest
    for words in (record.model_digest, record.digest, "language=scripted", "mask_decoder=scripted", "window="):
        assert words in parameters
    other = replace(
        record, digest="f6" * 32, mask_decoder=RuntimeRecord("onnxruntime", "1.30", precision="float16")
    )
    first, *others = (each for each in found(job) if each.item.frame)
    again = replace(first, rows=tuple(replace(row, engine_digest=other.digest) for row in first.rows))
    records = {each.digest: each for each in (record, other)}
    [made] = segmentations([again, *others], opened.current().identity, records)
    segment = made.objects[0].SegmentSequence[0]
    parameters = segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert "mask_decoder=scripted | onnxruntime 1.30 float16" in parameters
    assert f"{record.digest} | {other.digest}" in parameters
    assert made.objects[0].DeviceSerialNumber == record.model_digest


def test_dialogues_of_the_same_names_on_a_frame_have_segments_of_their_own(job: Path, tmp_path: Path) -> None:
    """As a table's without names: no mask takes another's place."""
    run = Job.open(job).current()
    frames = [each.item for each in found(job) if each.item.frame in {1, 2}]
    asked = [replace(item, item_id=f"{n}" * 32, questions=QUESTIONS[:1]) for n in (1, 2) for item in frames]
    masks = disc(20, 64), None, disc(15, 64), disc(10, 64)
    rows = [answered(item, run, (mask,)) for item, mask in zip(asked, masks, strict=True)]
    [made] = segmentations([Result(*each) for each in zip(asked, map(tuple, rows), strict=True)], run.identity, {})
    for number, each in enumerate(made.objects):  # where frames lie at one place, more than one
        (tmp_path / f"{number}.dcm").write_bytes(encode(each))
    image = read(str(get_testdata_file("emri_small.dcm")))
    drawn = {
        (segment.label, frame): mask
        for stored in map(read_segmentation, tmp_path.glob("*.dcm"))
        for segment in stored.segments
        for frame in (1, 2)
        if (mask := stored.mask(segment.number, image, frame)) is not None
    }
    places = ("Liver", 1), ("Liver", 2), ("Liver (2)", 1), ("Liver (2)", 2)
    for place, item, mask in zip(places, asked, masks, strict=True):
        assert (place in drawn) is (mask is not None)
        assert mask is None or np.array_equal(drawn[place], image.frame(item.frame or 1).to_stored(mask))
    segments = [segment for each in made.objects for segment in each.SegmentSequence]
    assert {each.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for each in segments} == {"Liver"}


def test_a_second_export_changes_nothing(job: Path) -> None:
    folder = Job.open(job).current().folder
    every = ("--png", "--coco", "--labels", "--seg")
    export(job, *every)
    before = {name: content for name, content in files(folder).items() if "ledger" not in name}
    times = {path: path.stat().st_mtime_ns for path in (folder / "masks").rglob("*.png")}
    export(job, *every)
    assert {name: content for name, content in files(folder).items() if "ledger" not in name} == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_what_cannot_be_made_again_stays_while_its_results_are_the_same(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Path(shutil.copytree(job, tmp_path / "job"))
    run = Job.open(made).current()
    export(made, "--labels", "--seg")
    before = files(run.folder / "labels") | files(run.folder / "seg")
    objects = {name for name in before if name.endswith(".dcm")}
    images = job.with_name(job.name.removesuffix("-job"))
    away = images.rename(tmp_path / "away")
    try:
        capsys.readouterr()
        assert export(made, "--labels", "--seg") == 3
        assert "problem    2 series" in capsys.readouterr().err
        assert files(run.folder / "labels") | files(run.folder / "seg") == before
        assert main(["annotate", "verify", "--job", str(made)]) == 0
        again = next(each for each in found(made) if each.item.frame)
        write_part(run.index, [replace(row, score=0.125) for row in again.rows])
        assert export(made, "--seg") == 3
    finally:
        away.rename(images)
    assert set(files(run.folder / "seg")) < objects
    assert len(files(run.folder / "seg")) == 1


def test_a_series_whose_source_changed_is_left_out_and_the_rest_goes_on(job: Path) -> None:
    first, *others = (each for each in found(job) if each.item.kind == "dicom")
    changed = replace(first, item=replace(first.item, sha256="00" * 32))
    made = list(segmentations([changed, *others], Job.open(job).current().identity, {}))
    assert sorted(bool(each.objects) for each in made) == [False, True]
    assert [each.problem.partition(":")[0] for each in made if each.problem] == ["ItemError"]


def test_one_export_of_a_kind_is_at_work_at_a_time_and_removes_what_a_killed_one_left(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Job.open(job).current()
    left = run.folder / f"coco.json{UNFINISHED}0123"
    left.write_bytes(b"{")
    with locked(run.folder / "export-coco.lock"):
        assert export(job, "--coco") == 4
        assert "another export of coco" in capsys.readouterr().err
        assert export(job, "--png") == 0
    assert export(job, "--coco") == 0
    assert not left.exists()


def test_nothing_chosen_is_an_error(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(job) == 2
    assert "--png" in capsys.readouterr().err


def test_values_of_a_key_come_together_and_urgent_ones_first() -> None:
    values = [("a", False, "1"), ("b", False, "2"), ("a", False, "3"), ("c", True, "4"), ("b", False, "5")]
    assert [value for _, value in grouped(values)] == ["4", "1", "3", "2", "5"]
