"""``read_series``: stacks of frames in their order, and what belongs to none."""

from __future__ import annotations

import io
import os
import random
import socket
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from mediround import dicom
from mediround.dicom.series import grouping, reading, walk
from tests.unit.client.dicom.slices import AXIAL, CORONAL, enhanced, mr, saved

FAR = [1, 0, 0, 0, 1, 2e-4]
TILT = [1, 0, 0, 0, 0.999999995, 1e-4]
TEST_FILES = Path(pydicom.__file__).parent / "data/test_files"


def one(*datasets: Dataset) -> dicom.Stack:
    [stack] = dicom.read_series(datasets).stacks
    return stack


def numbers(stack: dicom.Stack) -> list[int | None]:
    return [frame.instance_number for frame in stack.frames]


def test_slices_are_in_the_order_of_their_positions_whatever_their_numbers(tmp_path: Path) -> None:
    heights = {3: 0.0, 1: 2.5, 4: 5.0, 2: 7.5}
    folder = saved(tmp_path / "series", *(mr(z, number) for number, z in sorted(heights.items())))
    [stack] = dicom.read_series(folder).stacks
    assert numbers(stack) == [3, 1, 4, 2]
    assert (stack.order, stack.plane, stack.spacing, stack.gaps) == ("position", "axial", 2.5, ())
    assert (stack.modality, stack.body_part, stack.part, stack.parts) == ("MR", "BRAIN", 1, 1)
    assert [frame.location for frame in stack.frames] == [0, 2.5, 5, 7.5]


def test_orientations_within_a_ten_thousandth_are_one_stack_others_are_not() -> None:
    near = one(mr(0, 1), mr(1, 2, ImageOrientationPatient=TILT))
    assert len(near.frames) == 2
    stacks = dicom.read_series(
        [
            mr(0, 1),
            mr(0, 2, ImageOrientationPatient=CORONAL),
            mr(1, 3, ImageOrientationPatient=[1, 0, 0, 0, 1, 2e-4]),
        ]
    ).stacks
    assert [(stack.plane, stack.part, stack.parts) for stack in stacks] == [
        ("axial", 1, 3),
        ("coronal", 2, 3),
        ("axial", 3, 3),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"FrameOfReferenceUID": "1.6"},
        {"SeriesInstanceUID": "1.6"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"Rows": 8, "Columns": 32},
        {"ImagePositionPatient": None},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_differs_in_more_than_position_is_another_stack(other: dict[str, object]) -> None:
    stacks = dicom.read_series([mr(0, 1), mr(1, 2), mr(2, 3, **other)]).stacks
    assert sorted(len(stack.frames) for stack in stacks) == [1, 2]
    assert [stack.localizer for stack in stacks] == [False, "ImageType" in other]


def test_gaps_are_told() -> None:
    stack = one(*(mr(z, number) for number, z in enumerate([0, 3, 6, 15, 18])))
    assert stack.spacing == 3
    assert stack.gaps == (dicom.Gap(after=2, distance=9, missing=2),)


def test_without_geometry_the_numbers_count() -> None:
    bare: dict[str, object] = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    stack = one(mr(0, 7, **bare), mr(0, 5, **bare), mr(0, 6, InstanceNumber=None, SOPInstanceUID="1.9", **bare))
    assert numbers(stack) == [5, 7, None]
    assert (stack.order, stack.plane, stack.spacing) == ("number", None, None)
    assert "position or orientation is not known" in stack.notes[0]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("ImageOrientationPatient", [2, 0, 0, 0, 2, 0]),
        ("ImageOrientationPatient", [1, 0]),
        ("ImagePositionPatient", [0, 0]),
        ("ImagePositionPatient", [0, 0, 1e9]),
    ],
)
def test_geometry_that_cannot_be_is_as_none(attribute: str, value: list[float]) -> None:
    stack = one(mr(0, 2, **{attribute: value}), mr(1, 1, SOPInstanceUID="1.9", **{attribute: value}))
    assert (stack.order, numbers(stack)) == ("number", [1, 2])
    assert f"{attribute} cannot be: it is not used" in stack.notes


@pytest.mark.parametrize(
    ("keyword", "values"),
    [("EchoTime", (30, 80)), ("TemporalPositionIdentifier", (1, 2)), ("DiffusionBValue", (0, 1000))],
)
def test_frames_at_one_position_are_told_apart_by_an_attribute(keyword: str, values: tuple[int, int]) -> None:
    first = [mr(z, z + 1, **{keyword: values[0]}) for z in range(3)]
    second = [mr(z, z + 11, AcquisitionNumber=2, **{keyword: values[1]}) for z in range(3)]
    stacks = dicom.read_series([*second, *first]).stacks
    assert [numbers(stack) for stack in stacks] == [[1, 2, 3], [11, 12, 13]]
    assert [stack.notes for stack in stacks] == [(f"{keyword} 1 of 2",), (f"{keyword} 2 of 2",)]


def test_an_attribute_that_differs_from_slice_to_slice_tells_nothing_apart() -> None:
    found = dicom.read_series(
        [mr(0, 1, TriggerTime=1), mr(0, 2, TriggerTime=9), mr(1, 3, TriggerTime=4), mr(1, 4, TriggerTime=8)]
    )
    [stack] = found.stacks
    assert numbers(stack) == [1, 3]
    assert [(each.reason, each.frame) for each in found.set_aside] == [("duplicate_position", 1)] * 2
    assert "the first by InstanceNumber is taken" in stack.notes[0]


def test_frames_at_one_position_alone_are_in_the_order_of_time() -> None:
    stack = one(*(mr(0, number, TriggerTime=100 - number) for number in range(4)))
    assert (stack.order, numbers(stack)) == ("time", [3, 2, 1, 0])


def test_an_enhanced_object_has_a_stack_for_each_time() -> None:
    stacks = dicom.read_series(enhanced([(1, 1), (1, 2), (0, 1), (0, 2)])).stacks
    assert [[frame.number for frame in stack.frames] for stack in stacks] == [[3, 1], [4, 2]]
    assert stacks[0].frames[0].spacing == (1, 1)
    assert stacks[0].notes == ("TemporalPositionIndex 1 of 2",)


def test_an_object_counts_once() -> None:
    found = dicom.read_series([mr(0, 1), mr(0, 1), mr(1, 2)])
    assert [len(stack.frames) for stack in found.stacks] == [2]
    assert [each.reason for each in found.set_aside] == ["duplicate_object"]


def test_pydicoms_own_series_of_mixed_orientations_is_split() -> None:
    found = dicom.read_series(TEST_FILES / "dicomdirtests")
    mixed = [stack for stack in found.stacks if stack.modality == "MR" and stack.parts == 7]
    assert len(mixed) == 7
    [head] = [stack for stack in found.stacks if stack.gaps]
    assert [gap.after for gap in head.gaps] == [0]
    assert sum(stack.localizer for stack in found.stacks) == 2


def test_what_is_no_image_hurts_no_other(tmp_path: Path) -> None:
    folder = saved(tmp_path / "series", mr(0, 1), mr(1, 2))
    (folder / "notes.txt").write_text("none")
    (folder / "deep").mkdir()
    (folder / "deep/circle").symlink_to(folder)
    (folder / "nothing").symlink_to(folder / "gone")
    (folder / "itself").symlink_to(folder / "itself")
    os.mkfifo(folder / "pipe")
    report = mr(0, 3)
    del report.PixelData
    pydicom.dcmwrite(folder / "report", report, enforce_file_format=True)
    found = dicom.read_series(folder)
    assert [len(stack.frames) for stack in found.stacks] == [2]
    reasons = {Path(str(each.source)).name: each.reason for each in found.set_aside}
    assert reasons == {
        "notes.txt": "not_dicom",
        "circle": "unreadable",
        "nothing": "unreadable",
        "itself": "unreadable",
        "pipe": "unreadable",
        "report": "no_image",
    }
    assert not any(str(folder) in each.description for each in found.set_aside)


def test_damaged_headers_are_set_aside_or_read() -> None:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, enhanced([(z, time) for z in range(3) for time in (1, 2)]), enforce_file_format=True)
    whole, chance = buffer.getvalue(), random.Random(20)  # noqa: S311  # of a test
    ends = {"stacks": 0, "aside": 0}
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(132, len(damaged))] = chance.randrange(256)
        found = dicom.read_series(bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])]))
        ends["stacks" if found.stacks else "aside"] += 1
        assert found.stacks or found.set_aside
    assert min(ends.values()) > 20
    wrong = mr(0)
    wrong.add_new("PerFrameFunctionalGroupsSequence", "UI", "1.2.3")
    assert [len(stack.frames) for stack in dicom.read_series(wrong).stacks] == [1]


def test_a_path_that_is_none_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        dicom.read_series(tmp_path / "gone")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        with pytest.raises(dicom.NotDicom, match="must be a file or a folder"):
            dicom.read_series(tmp_path / "socket")
    with pytest.raises(dicom.NotDicom, match="must be a path"):
        dicom.read_series(7)  # type: ignore[arg-type]


def test_numbers_of_what_is_read_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_FILES", 2)
    monkeypatch.setattr(walk, "MAX_DEPTH", 1)
    folder = saved(tmp_path / "series", *(mr(z, z + 1) for z in range(3)))
    (folder / "0/1/2").mkdir(parents=True)
    found = dicom.read_series(folder)
    assert [len(stack.frames) for stack in found.stacks] == [2]
    assert [each.description[:14] for each in found.set_aside] == ["lies more than", "more than 2 fi"]
    monkeypatch.setattr(reading, "MAX_FRAMES", 1)
    assert [each.reason for each in dicom.read_series([mr(0, 1), mr(1, 2), mr(2, 3)]).set_aside] == ["too_many"]
    monkeypatch.undo()
    monkeypatch.setattr(grouping, "MAX_STACKS", 1)
    found = dicom.read_series([mr(0, 1), mr(1, 2), mr(0, 3, ImageOrientationPatient=CORONAL)])
    assert [len(stack.frames) for stack in found.stacks] == [2]
    assert [each.reason for each in found.set_aside] == ["too_many"]


def test_frames_that_are_declared_and_not_there_cost_little() -> None:
    many = dicom.read_series([mr(0, NumberOfFrames=100_000), mr(0, 2, NumberOfFrames=1_000_000), mr(1, 3)])
    assert sorted(len(stack.frames) for stack in many.stacks) == [1, 100_000]
    assert [each.description[:34] for each in many.set_aside] == ["an object must have at most 100000"]


def test_nothing_that_is_told_holds_a_value_of_the_object() -> None:
    found = dicom.read_series([mr(0, 1, PatientName="Doe^Jane"), mr(0, 1), mr(0, 2, PatientID="X1")])
    words = repr(found)
    assert not any(value in words for value in ("Doe", "X1", "1.2.1", "1.4", "1.5"))


def test_a_thousand_frames_are_one_stack_and_objects_are_counted() -> None:
    counts: list[int] = []
    objects = [enhanced([(z, 1) for z in range(1000)]), mr(1, 2, SeriesInstanceUID="1.6")]
    stacks = dicom.read_series(objects, progress=counts.append).stacks
    assert [len(stack.frames) for stack in stacks] == [1000, 1]
    assert counts == [1, 2]
    assert list(stacks[0].frames[0].orientation or ()) == AXIAL
