"""``make dicom-demo``, as it is run: every step goes well, and it says so only then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from demo.dicom.__main__ import Steps
from tests.conftest import REPOSITORY
from tests.pacs.programs import program

CHECKS = 8


@pytest.fixture(autouse=True)
def programs() -> None:
    for name in ("Orthanc", "dciodvfy", "java"):
        program(name)


@pytest.mark.timeout(900)  # a server, a Java, an Orthanc, on a machine that may have other work
def test_the_demonstration_goes_well(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo.dicom", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith(("ok", "FAILED"))]
    assert len(steps) == CHECKS
    assert steps[0] == "ok     48 masks of 6 structures on 8 slices"
    assert done.stdout.splitlines()[-1] == "all is as it must be"
    assert len(list(tmp_path.glob("slice-*.png"))) == 8
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    positions = [group.PlanePositionSequence[0] for group in seg.PerFrameFunctionalGroupsSequence]
    heights = {one.ImagePositionPatient[2] for one in positions}
    assert sorted(map(float, heights)) == [-1, 0, 1, 2, 3, 4, 5, 6]


def test_a_step_that_fails_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps()
    steps.check("good", [])
    steps.check("bad", ["Error - missing"])
    assert steps.failures == ["bad"]
    assert "FAILED bad: ['Error - missing']" in capsys.readouterr().out
