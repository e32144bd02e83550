"""Each example runs as a user runs it: on one server with the bundled model; if it is busy, on a scripted one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mediround import Unavailable, rle
from mediround.testing import Answer, AskedQuestion, Reply, serve
from tests.examples.conftest import BUNDLE, REPOSITORY

SLICES = [BUNDLE / "slices" / name for name in ("slice_z070.png", "slice_z076.png")]
FIRST = "Segment the left thalamus."


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    directory = tmp_path / "inbox"
    directory.mkdir()
    for path in SLICES:
        shutil.copy(path, directory)
    return directory


def example(name: str, address: str, *flags: object) -> str:
    """What the example prints."""
    command = [sys.executable, REPOSITORY / "examples" / f"{name}.py", "--server", address, *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def pixels(path: Path) -> np.ndarray:
    """int (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_notebook(address: str, tmp_path: Path) -> None:
    printed = example("notebook", address, "--image", SLICES[1], "--out", tmp_path / "overlay.png")
    assert "mediround-lite" in printed
    drawn = pixels(tmp_path / "overlay.png") - pixels(SLICES[1])
    yellow = drawn[..., 1] > drawn[..., 2] + 32
    red = (drawn[..., 0] > drawn[..., 1] + 32) & ~yellow
    assert yellow.sum() > 20  # the outline of what the second round refers to
    assert red.sum() > 100


def test_undo_and_amend(address: str) -> None:
    printed = example("undo_and_amend", address, "--image", SLICES[1]).splitlines()
    before, after, first, second = printed
    assert before.startswith("round 1:")
    assert after.startswith("round 1:")
    assert before != after
    assert first.startswith("0: Segment the left thalamus.")
    assert first.endswith(", amended")
    assert second.endswith(", about a mask from by hand")


def test_the_fan_out(address: str, inbox: Path, tmp_path: Path) -> None:
    flags = ("--images", inbox, "--out", tmp_path / "out", "--at-once", 2)
    assert "2 of 2 images done, 0 skipped" in example("fan_out", address, *flags)
    written = {path: path.read_bytes() for path in sorted((tmp_path / "out").iterdir())}
    assert [path.name for path in written] == ["slice_z070.json", "slice_z076.json"]
    for text in written.values():
        for round_ in json.loads(text):
            mask = round_["mask"]
            assert rle.decode(mask["counts"].encode(), *mask["size"]).any()
    assert "0 of 0 images done, 2 skipped" in example("fan_out", address, *flags)
    assert {path: path.read_bytes() for path in sorted((tmp_path / "out").iterdir())} == written


def test_the_fan_out_on_a_busy_server(inbox: Path, tmp_path: Path) -> None:
    answers = {FIRST: [Unavailable("busy", 0.01), Unavailable("busy", 0.01), Answer()]}
    with serve(answers) as server:
        printed = example("fan_out", server.address, "--images", inbox, "--out", tmp_path / "out")
        asked = server.asked
        assert server.open_sessions == 0
    assert "2 of 2 images done" in printed
    assert {question.priority for question in asked} == {"batch"}
    assert len(list((tmp_path / "out").glob("*.json"))) == 2


def bridge(address: str, inbox: Path, outbox: Path) -> str:
    """One pass."""
    for path in inbox.iterdir():
        os.utime(path, (0, 0))  # written long ago
    flags = ("--inbox", inbox, "--outbox", outbox, "--every", 0)
    return example("pacs_bridge", address, *flags)


def test_the_bridge(address: str, inbox: Path, tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    (inbox / "report.txt").write_text("no image")
    shutil.copy(SLICES[0], inbox / "the same again.png")
    assert bridge(address, inbox, outbox) == ""
    results = [json.loads((done / "result.json").read_text()) for done in outbox.iterdir()]
    assert len(results) == 3  # two slices, of which one came twice, and the text
    refused = [result["refused"] for result in results if "refused" in result]
    assert [violation["field"] for violation in refused[0]] == ["image"]
    masks = [pixels(path) for path in outbox.glob("*/*.png")]
    assert len(masks) == 4
    assert all(mask.any() for mask in masks)


def test_the_bridge_tries_again_and_nothing_twice(inbox: Path, tmp_path: Path) -> None:
    outbox, down = tmp_path / "outbox", [True]

    def reply(question: AskedQuestion) -> Reply:
        return Unavailable("down", 0.01) if down and question.refer_to == 0 else Answer()

    with serve(reply) as server:
        assert bridge(server.address, inbox, outbox).count("later: down") == 2
        assert {path.suffix for path in outbox.iterdir()} == {".part"}
        down.clear()
        assert bridge(server.address, inbox, outbox) == ""
        assert len(list(outbox.glob("*/result.json"))) == len(list(outbox.iterdir())) == 2
        before = len(server.asked)
        assert bridge(server.address, inbox, outbox) == ""
        assert len(server.asked) == before


@pytest.mark.parametrize("path", sorted((REPOSITORY / "examples").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_told_of(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
    assert f"examples/{path.name}" in (REPOSITORY / "clients" / "README.md").read_text()
