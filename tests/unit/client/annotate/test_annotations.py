"""An archive's own annotations as what a template's questions are about: mask files, and DICOM SEG."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from mediround.__main__ import main
from mediround.annotate.errors import SourceError
from mediround.annotate.items import Item
from mediround.annotate.loading import load
from mediround.annotate.sources import segmentations
from mediround.annotate.sources.listing import SourceOptions, items_of
from mediround.annotate.sources.omissions import Omissions
from mediround.dicom import read
from mediround.dicom.results import Segment, encode, write_seg
from mediround.templates import load as template
from mediround.testing import Script, serve
from tests.unit.client.annotate.archive import archive
from tests.unit.client.annotate.jobs import flat_png, png
from tests.unit.client.dicom.series import COLUMNS, PROVENANCE, ROWS, keys, mask, stack

TEMPLATE = template("brain-t1-thalami")
"""Its second question is about the left thalamus, its third about the right one."""


def listed(source: str, references: str | None, omissions: Omissions | None = None) -> list[Item]:
    options = SourceOptions(TEMPLATE, references=references, omissions=omissions or Omissions())  # type: ignore[arg-type]
    return list(items_of(source, options))


def about(item: Item) -> list[str]:
    """Of each question: ``given``, the index of the round that it is about, or nothing."""
    return [
        "given" if each.reference else "" if each.refer_to is None else str(each.refer_to)
        for each in item.questions
    ]


def test_mask_files_beside_images_are_what_questions_are_about(tmp_path: Path) -> None:
    masks = {
        "1.png": "1-left-thalamus.png",
        "2.png": "masks/2_left_thalamus.png",
        "1.2.3": "1.2.3-right-thalamus.png",
    }
    (tmp_path / "masks").mkdir()
    for number, image in enumerate(("0.png", *masks)):
        (tmp_path / image).write_bytes(flat_png(number))
    for number, name in enumerate(masks.values(), start=1):
        (tmp_path / name).write_bytes(png((np.eye(8) * number).astype(np.uint8)))
    (tmp_path / "masks" / "2-right-cerebral-hemisphere.png").write_bytes(flat_png(10))
    longest = "9" * 251 + ".png"  # with a mask's ending it would be too long to be a file's name
    (tmp_path / longest).write_bytes(flat_png(9))
    omissions = Omissions()
    items = {item.uri.rpartition("/")[2]: item for item in listed(str(tmp_path), "masks", omissions)}
    assert {name: about(item) for name, item in items.items()} == {
        longest: ["", "0", "1"],
        "0.png": ["", "0", "1"],
        "1.png": ["", "given", "1"],
        "2.png": ["", "given", "1"],
        "1.2.3": ["", "0", "given"],
    }
    assert omissions.counts == {"mask": 4}, "also of a question that no other is about"
    assert np.array_equal(load(items["2.png"]).references[1], np.eye(8, dtype=bool))
    assert len(listed(str(tmp_path), None)) == 9


def test_mask_files_of_a_store_are_what_questions_are_about() -> None:
    store = pytest.importorskip("fsspec").filesystem("memory")
    for number, name in enumerate(("0.png", "below/1.png", "below/2.png")):
        store.pipe(f"/marked/{name}", flat_png(number))
    for name in ("0-left-thalamus.png", "below/masks/2_left_thalamus.png"):
        store.pipe(f"/marked/{name}", png(np.eye(8, dtype=np.uint8)))
    omissions = Omissions()
    items = {item.uri.rpartition("/")[2]: item for item in listed("memory://marked", "masks", omissions)}
    assert {name: about(item) for name, item in items.items()} == {
        "0.png": ["", "given", "1"],
        "1.png": ["", "0", "1"],
        "2.png": ["", "given", "1"],
    }
    assert omissions.counts == {"mask": 2}
    assert np.array_equal(load(items["2.png"]).references[1], np.eye(8, dtype=bool))


@pytest.fixture
def series() -> list[Dataset]:
    """Four slices with pixels."""
    slices = stack(4)
    for number, one in enumerate(slices):
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.SamplesPerPixel, one.PhotometricInterpretation, one.PixelRepresentation = 1, "MONOCHROME2", 0
        one.BitsAllocated, one.BitsStored, one.HighBit = 8, 8, 7
        one.InstanceNumber = number + 1
        one.PixelData = bytes([number]) * (ROWS * COLUMNS)
    return slices


def segmentation(series: Sequence[Dataset], date: str = "20260102", **masks: np.ndarray) -> Dataset:
    """Of slices 0 and 2; underscores in names become spaces, as in labels."""
    places = keys(list(series))
    [written] = write_seg(
        series,
        [
            Segment(name.replace("_", " "), {places[0]: bits, places[2]: bits}, index)
            for index, (name, bits) in enumerate(masks.items())
        ],
        PROVENANCE,
    )
    written.ContentDate = date
    return written


def written(dataset: Dataset) -> bytes:
    held = io.BytesIO()
    pydicom.dcmwrite(held, dataset, enforce_file_format=True)
    return held.getvalue()


def test_segments_of_a_dicom_tree_are_what_questions_about_their_slices_are_about(
    tmp_path: Path, series: list[Dataset]
) -> None:
    (tmp_path / "annotations").mkdir()
    for date, bits in (("20260103", mask(2)), ("20260102", mask(1))):
        found = segmentation(series, date, Left_Thalamus=bits, other=mask(3))
        (tmp_path / "annotations" / date).write_bytes(encode(found))
    (tmp_path / "broken").write_bytes(encode(segmentation(series, Left_Thalamus=mask(1)))[:900])
    for number, one in enumerate(series):
        (tmp_path / f"{number}").write_bytes(written(one))
    omissions = Omissions()
    items = [item for item in listed(str(tmp_path), "seg", omissions) if not item.problem]
    assert [about(item) for item in items] == [["", "given", "1"], ["", "0", "1"]] * 2
    assert omissions.counts["bad_segmentation"] == 1
    shown = read(tmp_path / "0").frame()
    assert np.array_equal(load(items[0]).references[1], shown.from_stored(mask(2))), "the latest"


def test_of_more_objects_than_are_looked_at_the_latest_are(
    tmp_path: Path, series: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentations, "MOST_LOOKED_AT", 2)
    for number, date in enumerate(("20260101", "20260104", "20260102", "20260103")):
        found = segmentation(series, date, **{"other" if number == 3 else "left_thalamus": mask(number + 1)})
        (tmp_path / f"a{number}").write_bytes(encode(found))
    for number, one in enumerate(series):
        (tmp_path / f"{number}").write_bytes(written(one))
    omissions = Omissions()
    items = listed(str(tmp_path), "seg", omissions)
    given = [each.questions[1].reference for each in items if each.questions[1].reference]
    assert [each.uri.rpartition("/")[2] for each in given] == ["a1", "a1"]
    assert omissions.counts["segmentations_left"] == 2, "of the slices without a mask"


def test_segments_of_an_archive_are_what_questions_are_about(tmp_path: Path, series: list[Dataset]) -> None:
    found = segmentation(series, left_thalamus=mask(1))
    with archive(*series, found) as server:
        source = f"{server.address}?Modality=MR"
        items = listed(source, "seg")
        assert [about(item) for item in items] == [["", "given", "1"], ["", "0", "1"]] * 2
        with serve(Script()) as service:
            job = ["--job", str(tmp_path / "job"), "--server", service.address]
            plan = ["annotate", "plan", source, "--template", TEMPLATE.name, "--references", "seg", *job]
            assert main(plan) == 0
            assert main(["annotate", "run", *job]) == 0


def test_references_are_refused_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("image\n")
    for source, references in (
        (tmp_path / "table.csv", "masks"),
        ("http://127.0.0.1:9", "masks"),
        ("s3://a", "seg"),
    ):
        with pytest.raises(SourceError, match="--references must be"):
            listed(str(source), references)
