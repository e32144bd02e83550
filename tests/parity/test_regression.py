"""Sets that our own engines record: read back, told apart from golden vectors, and able to fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from exporters.__main__ import main
from exporters.compare.golden import ARRAYS, read_golden, read_origin
from exporters.errors import UnsupportedSourceError
from serving.bundle import Bundle

WARNING = "REGRESSION SET, not golden"


def record(bundle: Bundle, data: Path, root: Path, out: Path) -> int:
    directory = str(bundle.directory)
    given = ["--bundle", directory, "--data", str(data), "--root", str(root), "--out", str(out)]
    return main(["record", *given])


@pytest.fixture(scope="module")
def data(golden_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two of the golden dialogues; their images lie below another directory."""
    path = tmp_path_factory.mktemp("data") / "two.json"
    path.write_text(json.dumps(json.loads((golden_directory / "dataset" / "dialogues.json").read_text())[:2]))
    return path


@pytest.fixture(scope="module")
def recorded(
    random_bundle: Bundle, data: Path, golden_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("recorded") / "set"
    assert record(random_bundle, data, golden_directory / "dataset", out) == 0
    return out


def parity(bundle: Bundle, directory: Path) -> int:
    return main(["parity", "--bundle", str(bundle.directory), "--golden", str(directory)])


def test_a_recorded_set_passes_on_its_bundle_and_says_what_it_is(
    random_bundle: Bundle, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity(random_bundle, recorded) == 0
    printed = capsys.readouterr()
    assert WARNING in printed.err
    report = json.loads(printed.out)
    assert report["recorded_by"]["kind"] == "regression"
    assert report["recorded_by"]["model_digest"] == random_bundle.digest
    assert report["recorded_by"]["engines"][0].startswith("onnxruntime/")
    assert len(report["rounds"]) == 9
    assert sum(parity["reference_equal"] is True for parity in report["rounds"]) >= 4
    assert max(parity["feature_diff"] for parity in report["rounds"]) < 1e-5


def test_a_set_of_another_bundle_fails(golden_bundle: Bundle, recorded: Path) -> None:
    assert parity(golden_bundle, recorded) == 1


def test_it_holds_what_the_golden_form_holds(recorded: Path, golden_directory: Path) -> None:
    ours, golden = (list(read_golden(directory))[:2] for directory in (recorded, golden_directory))
    for found, published in zip(ours, golden, strict=True):
        np.testing.assert_array_equal(found.rgb, published.rgb)
        assert (found.index, found.questions) == (published.index, published.questions)
        for one, other in zip(found.rounds, published.rounds, strict=True):
            assert one.mask.shape == other.mask.shape
            named = ("raw_feature", "score", "box", "crop")
            assert [getattr(one, n) is None for n in named] == [getattr(other, n) is None for n in named]


def test_whoever_opens_the_files_sees_that_they_are_not_golden(
    recorded: Path, golden_directory: Path, random_bundle: Bundle
) -> None:
    origin = read_origin(recorded)
    assert origin is not None
    assert origin.model_digest == random_bundle.digest
    assert WARNING in (recorded / "README.md").read_text()
    assert read_origin(golden_directory) is None


def test_recording_warns(
    random_bundle: Bundle, data: Path, golden_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_of_one = tmp_path / "one.json"
    data_of_one.write_text(json.dumps(json.loads(data.read_text())[:1]))
    assert record(random_bundle, data_of_one, golden_directory / "dataset", tmp_path / "out") == 0
    assert WARNING in capsys.readouterr().err


def test_nothing_is_written_over_or_beside(
    random_bundle: Bundle, data: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (recorded / ARRAYS).read_bytes()
    assert record(random_bundle, data, tmp_path, recorded) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (recorded / ARRAYS).read_bytes() == before
    (tmp_path / "root").mkdir()
    (tmp_path / "image.png").write_bytes(b"")
    away = json.loads(data.read_text().replace("images/0.png", "../image.png"))
    (tmp_path / "away.json").write_text(json.dumps(away))
    assert record(random_bundle, tmp_path / "away.json", tmp_path / "root", tmp_path / "out") == 2
    assert "lies outside --root" in capsys.readouterr().err
    assert not (tmp_path / "out" / "image.png").exists()


def test_an_image_that_is_not_there_is_named(
    random_bundle: Bundle, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record(random_bundle, data, tmp_path, tmp_path / "out") == 2
    assert "0.png" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["d1_input_ids", "d0_r0_feature"])
def test_arrays_of_another_data_set_are_refused(recorded: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(recorded, tmp_path / "set")
    with np.load(recorded / ARRAYS) as arrays:
        np.savez(tmp_path / "set" / ARRAYS, **{name: arrays[name] for name in arrays if name != missing})
    with pytest.raises(UnsupportedSourceError, match=missing):
        list(read_golden(tmp_path / "set"))
