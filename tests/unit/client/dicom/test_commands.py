"""``mediround segment`` and ``mediround dicom check``, as a terminal runs them, against the scripted server."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from mediround import ServerFault, Unavailable, dicom, masks
from mediround.__main__ import main
from mediround.dicom import instance
from mediround.dicom.command.record import PackedMasks, StackRecord
from mediround.dicom.results import capture
from mediround.testing import Answer, Script, serve
from tests.unit.client.dicom.slices import CORONAL, SIDE, WHOLE, enhanced, mr, saved

TEMPLATE = """
name = "liver"
modality = "MR"
body_part = "BRAIN"
plane = "axial"
model = "scripted"
mode = "free"
[[questions]]
name = "liver"
question = "Segment the liver."
[[questions]]
name = "tumour"
question = "Segment the tumour in it."
refer_to = "liver"
"""


@pytest.fixture
def template(tmp_path: Path) -> str:
    path = tmp_path / "liver.toml"
    path.write_text(TEMPLATE)
    return str(path)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return saved(tmp_path / "Doe Jane 1970", *(mr(index, index + 1, **WHOLE) for index in range(4)))


def segment(server: str, source: Path, template: str, out: Path, *flags: str) -> int:
    return main(["segment", str(source), "--server", server, "--template", template, "--out", str(out), *flags])


def test_it_writes_a_segmentation_masks_and_what_is_known_of_each_frame(
    series: Path, template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve({"Segment the tumour in it.": [Answer(score=0.3), Answer(None), Answer()]}) as server:
        out = tmp_path / "out"
        assert segment(server.address, series, template, out, "--seg", "--sr", "--png", "--in-flight", "1") == 0
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {
        "results.json",
        "stack-01-seg.dcm",
        "stack-01-sr.dcm",
        *(f"stack-01/frame-{index:04}-liver.png" for index in range(4)),
        *(f"stack-01/frame-{index:04}-tumour.png" for index in (0, 2, 3)),
    }
    held = json.loads((out / "results.json").read_text())
    [stack] = held["stacks"]
    assert [frame["answers"][1]["status"] for frame in stack["frames"]] == ["mask", "no_mask", "mask", "mask"]
    assert [frame["answers"][1]["mark"] for frame in stack["frames"]] == ["low", "lost", "", ""]
    mask = np.asarray(Image.open(out / "stack-01/frame-0000-liver.png"))
    assert stack["frames"][0]["answers"][0]["mask_digest"] == masks.digest(mask).hex()
    written = pydicom.dcmread(out / "stack-01-seg.dcm")
    assert [segment.SegmentLabel for segment in written.SegmentSequence] == ["liver", "tumour"]
    assert written.NumberOfFrames == 7
    assert pydicom.dcmread(out / "stack-01-sr.dcm").VerificationFlag == "UNVERIFIED"
    printed = capsys.readouterr().out
    assert re.search(r"tumour +│ +4 │ +3 │ +0 │ +1 │ +0 │ +0.90 │ +0.30 │ +2 │", printed)
    assert "stack 1, tumour: marked are frames 0 (low), 1 (lost)" in printed
    assert "files written: 10, in " in printed
    everything = printed + (out / "results.json").read_text() + "".join(names)
    assert not any(word in everything for word in ("Doe", "X1", "1970"))


def test_the_same_run_writes_the_same_object(series: Path, template: str, tmp_path: Path) -> None:
    with serve() as server:
        for name in ("a", "b"):
            assert segment(server.address, series, template, tmp_path / name) == 0
    assert (tmp_path / "a/stack-01-seg.dcm").read_bytes() == (tmp_path / "b/stack-01-seg.dcm").read_bytes()


def test_nothing_is_overwritten(
    series: Path, template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    with serve() as server:
        assert segment(server.address, series, template, tmp_path / "out", "--frames", "1-2") == 0
        assert segment(server.address, series, template, tmp_path / "out") == 2
        assert len(server.asked) == 4
    assert "--out: must not exist, or be an empty folder" in capsys.readouterr().err


def test_frames_that_fail_are_listed_and_the_rest_is_written(
    series: Path, template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(path for path in sorted(series.iterdir()) if pydicom.dcmread(path).InstanceNumber == 2)
    path.write_bytes(path.read_bytes()[: -SIDE * SIDE])
    replies = [Answer(), ServerFault("broken"), Answer()]
    with serve({"Segment the liver.": replies}) as server:
        assert segment(server.address, series, template, tmp_path / "out", "--in-flight", "1") == 1
    printed = capsys.readouterr().out
    assert "stack 1, frame 1 failed: BadPixels: " in printed
    assert "stack 1, frame 2 failed: ServerFault: " in printed
    assert pydicom.dcmread(tmp_path / "out/stack-01-seg.dcm").NumberOfFrames == 4


def test_a_server_that_stops_leaves_what_is_known(
    series: Path, template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(Script({"Segment the liver.": [Answer(), Unavailable("gone", retry_after=0.01)]})) as server:
        flags = ("--in-flight", "1", "--timeout", "5", "--sr", "--sc")
        assert segment(server.address, series, template, tmp_path / "out", *flags) == 1
    told = capsys.readouterr().err
    assert "error: Unavailable: " in told
    assert "stack 1 is incomplete: 1 of 4 frames are known, and written" in told
    held = json.loads((tmp_path / "out/results.json").read_text())
    assert [frame["index"] for frame in held["stacks"][0]["frames"]] == [0]
    assert held["stacks"][0]["complete"] is False
    [written] = [pydicom.dcmread(path) for path in (tmp_path / "out").glob("*.dcm")]
    assert (written.Modality, written.NumberOfFrames) == ("SEG", 2)
    assert "incomplete=1 of 4 frames" in json.dumps(written.to_json_dict())


def test_frames_may_follow(series: Path, template: str, tmp_path: Path) -> None:
    with serve() as server:
        assert segment(server.address, series, template, tmp_path / "out", "--follow", "--start", "0") == 0
    held = json.loads((tmp_path / "out/results.json").read_text())
    assert [frame["follows"] for frame in held["stacks"][0]["frames"]] == [None, 0, 1, 2]


def test_a_segmentation_gives_masks_by_its_labels(
    series: Path, template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve() as server:
        assert segment(server.address, series, template, tmp_path / "a", "--frames", "1") == 0
        given = str(tmp_path / "a/stack-01-seg.dcm")
        asked = len(server.asked)
        assert segment(server.address, series, template, tmp_path / "b", "--given", given, "--follow") == 0
        assert len(server.asked) - asked == 6
        flags = ("--given", given)
        assert segment(server.address, series, "brain-t1-thalami", tmp_path / "c", *flags) == 2
        assert segment(server.address, series, template, tmp_path / "d", "--given", template) == 2
    held = json.loads((tmp_path / "b/results.json").read_text())
    assert [frame["follows"] for frame in held["stacks"][0]["frames"]] == [1, None, 1, 2]
    written = pydicom.dcmread(tmp_path / "b/stack-01-seg.dcm")
    assert {segment.SegmentAlgorithmType for segment in written.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert (
        "--given: must have a segment that is labelled as a question is: left thalamus, "
        in capsys.readouterr().err
    )


def test_stacks_that_the_template_is_not_for_are_left_out_unless_named(
    template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = mr(9, 3, **WHOLE), mr(1, 2, **WHOLE)
    different = {"ImageOrientationPatient": CORONAL, "SeriesInstanceUID": "1.9", "BodyPartExamined": "HEADS"}
    source = saved(tmp_path / "series", mr(0, 1, **WHOLE), mr(0, 9, **WHOLE | different), *far)
    for path in source.iterdir():
        path.write_bytes(path.read_bytes().replace(b"HEADS", b"HEAD\x1b"))  # would steer a terminal
    (source / "notes").write_text("none")
    with serve() as server:
        assert segment(server.address, source, template, tmp_path / "a") == 0
        printed = capsys.readouterr().out
        assert segment(server.address, source, template, tmp_path / "b", "--stack", "2") == 0
        named = capsys.readouterr().out
        assert segment(server.address, source, template, tmp_path / "c", "--stack", "7") == 2
        assert segment(server.address, source, "brain-t1-thalami", tmp_path / "d") == 0
        assert "written for mediround-lite; the server has scripted" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"results.json", "stack-01-seg.dcm"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"results.json", "stack-02-seg.dcm"}
    assert "stack 2 is left out: it is coronal, the template is for axial slices" in printed
    assert "1 left out: is no DICOM file" in printed
    assert "note: stack 1: gap of 8.00 mm after frame 1, slices missing: 7" in printed
    assert "stack 2: is HEAD?, the template is for BRAIN" in named


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--template", "nowhere"], "template: name: no template of that name is shipped"),
        (["--frames", "9"], "stack 1: frames: must be indices from 0 to 3"),
        (["--start", "1"], "stack 1: start: must be left out"),
        (["--window", "nothing"], "--window: must be CENTER,WIDTH, a number, or one of abdomen, "),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_is_told_in_one_line(
    flags: list[str], told: str, series: Path, template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve() as server:
        assert segment(server.address, series, template, series.parent / "out", *flags) == 2
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_frames_of_every_stack_are_checked_before_any_is_asked(
    template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [{"SeriesInstanceUID": "1.9", "SOPInstanceUID": f"1.9.{index}"} for index in range(2)]
    other = [mr(index, index + 1, **WHOLE | each) for index, each in enumerate(names)]
    source = saved(tmp_path / "series", *(mr(index, index + 1, **WHOLE) for index in range(4)), *other)
    with serve() as server:
        for flags in (["--frames", "0-3"], ["--follow", "--start", "3"]):
            assert segment(server.address, source, template, tmp_path / "out", *flags) == 2
        assert segment(server.address, source, template, tmp_path / "out", "--given", template) == 2
        assert not server.asked
        assert segment(server.address, source, template, tmp_path / "out", "--frames", "0-1") == 0
    told = capsys.readouterr().err
    assert "error: stack 2: frames: must be indices from 0 to 1" in told
    assert "error: stack 2: start: must be the index of a frame that is asked" in told


@pytest.mark.parametrize(
    "flag", ["--frames=x", "--frames=1-", "--frames=0-99999999", "--window=1,x", "--in-flight=0"]
)
def test_flags_that_cannot_be_are_argparses(
    flag: str, series: Path, template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        segment("127.0.0.1:1", series, template, series.parent / "out", flag)
    assert ended.value.code == 2
    assert "must be" in capsys.readouterr().err


def test_a_folder_without_images_is_told(
    tmp_path: Path, template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment("127.0.0.1:1", tmp_path, template, tmp_path / "out") == 2
    assert "SOURCE: no image was found" in capsys.readouterr().err
    assert segment("127.0.0.1:1", tmp_path / "gone", template, tmp_path / "out") == 2
    assert segment("127.0.0.1:1", Path(template), template, tmp_path / "out") == 2
    assert "1 left out: is no DICOM file" in capsys.readouterr().out


def test_a_series_that_can_have_no_segmentation_has_its_masks(
    template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved(tmp_path / "series", mr(0, 1, StudyInstanceUID=None))
    with serve() as server:
        assert segment(server.address, source, template, tmp_path / "out", "--seg", "--png") == 1
    assert (
        "note: stack 1: DICOM results cannot be written: StudyInstanceUID must be there" in capsys.readouterr().out
    )
    assert (tmp_path / "out/stack-01/frame-0000-liver.png").exists()


def test_pictures_are_one_a_frame_that_has_a_mask(series: Path, template: str, tmp_path: Path) -> None:
    with serve({"Segment the liver.": [Answer(), Answer(None), Answer()]}) as server:
        flags = ("--sc", "--in-flight", "1")
        assert segment(server.address, series, template, tmp_path / "out", *flags) == 0
    pictures = [pydicom.dcmread(path) for path in sorted((tmp_path / "out").glob("*.dcm"))]
    sources = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    heights = {source.SOPInstanceUID: source.ImagePositionPatient[2] for source in sources}
    shown = [heights[picture.SourceImageSequence[0].ReferencedSOPInstanceUID] for picture in pictures]
    assert shown == [0, 2, 3]
    assert [picture.InstanceNumber for picture in pictures] == [1, 2, 3]
    assert len({picture.SOPInstanceUID for picture in pictures}) == 3


def test_an_object_of_many_frames_is_read_once(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = enhanced([(float(place), 1) for place in range(6)])
    for keyword, value in WHOLE.items():
        setattr(made, keyword, value)
    source, times = saved(tmp_path / "series", made), Counter[str]()
    for module, name in ((instance, "opened"), (capture, "Sources")):
        monkeypatch.setattr(module, name, partial(counted, getattr(module, name), times, name))
    with serve() as server:
        assert segment(server.address, source, template, tmp_path / "out", "--sc") == 0
    assert len(list((tmp_path / "out").glob("stack-01-sc-*.dcm"))) == 6
    assert times == {"opened": 2, "Sources": 1}  # to ask, and to draw
    assert main(["dicom", "check", str(source), "--every-frame"]) == 0
    assert times["opened"] == 3


def counted(function: Callable[..., Any], times: Counter[str], name: str, *given: Any) -> Any:
    times[name] += 1
    return function(*given)


def test_where_nothing_is_found_it_says_so(
    series: Path, template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve({"Segment the liver.": Answer(None)}) as server:
        assert segment(server.address, series, template, tmp_path / "out", "--seg", "--sr") == 0
    assert "note: stack 1: nothing was found, so that no SEG is written" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "stack-01-sr.dcm"}


def test_check_says_what_would_happen(
    series: Path, template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dicom", "check", str(series), "--template", template]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"1 │ 1 of 1 │ MR +│ BRAIN +│ axial +│ +4 │ 16x16 │ position │ 1.00 mm │ yes", printed)
    assert "stack 1: Explicit VR Little Endian; read by pydicom" in printed
    assert "stack 1: windows differ from frame to frame, 3 of 3; --window sets one" in printed
    assert main(["dicom", "check", str(series), "--window=40,400", "--json"]) == 0
    [stack] = json.loads(capsys.readouterr().out)["stacks"]
    assert stack["windows"] == ["LINEAR center 40 width 400 (request), slope 1 intercept 0"]
    assert (stack["looked_at"], stack["frames"], stack["why_not"]) == (3, 4, None)


def test_check_says_why_not(tmp_path: Path, template: str, capsys: pytest.CaptureFixture[str]) -> None:
    broken = [mr(index * index, index + 1, PixelData=bytes(9 if index == 1 else 256)) for index in range(4)]
    source = saved(tmp_path / "series", *broken)
    assert main(["dicom", "check", str(source), "--every-frame"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"│ +4 │ 16x16 │ position │ +\d\.00 mm │ in part │", printed)
    assert "stack 1: frame 1 cannot be read: BadPixels: " in printed
    assert "stack 1: gap of 5.00 mm after frame 2, slices missing: 1" in printed
    assert main(["dicom", "check", str(source), "--template", "nowhere"]) == 2
    assert main(["dicom", "check", str(tmp_path / "gone")]) == 2
    alone = saved(tmp_path / "alone", broken[1])
    assert main(["dicom", "check", str(alone)]) == 1
    localizer = saved(tmp_path / "localizer", mr(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    assert main(["dicom", "check", str(localizer)]) == 0
    assert "stack 1: is a localizer: not asked unless --stack says so" in capsys.readouterr().out
    assert main(["dicom", "check", template]) == 1
    assert "1 left out: is no DICOM file" in capsys.readouterr().out


def test_masks_are_held_packed() -> None:
    packed, mask = PackedMasks(), np.zeros((512, 512), np.bool_)
    mask[100:200, 100:200] = True
    packed.add(("1.2", 1), mask)
    assert np.array_equal(packed["1.2", 1], mask)
    assert (list(packed), len(packed)) == ([("1.2", 1)], 1)
    assert len(packed._packed["1.2", 1][0]) < mask.size / 100


def test_an_interrupt_writes_what_is_known(
    series: Path, template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Ctrl-C would, in the thread that waits for the second frame."""
    add, results = StackRecord.add, list[dicom.FrameResult]()

    def interrupted(record: StackRecord, result: dicom.FrameResult) -> None:
        results.append(result)
        if len(results) == 2:
            raise KeyboardInterrupt
        add(record, result)

    with serve() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(StackRecord, "add", interrupted)
        assert segment(server.address, series, template, tmp_path / "out") == 130
        assert server.open_sessions == 0
    assert "interrupted: what is written stays" in capsys.readouterr().err
    held = json.loads((tmp_path / "out/results.json").read_text())
    assert len(held["stacks"][0]["frames"]) == 1
    assert pydicom.dcmread(tmp_path / "out/stack-01-seg.dcm").NumberOfFrames == 2
