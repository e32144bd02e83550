"""``make batch-demo`` at a size for tests: kills, verification, replay and comparison end as they must."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.timeout(900)
def test_a_run_that_is_killed_is_verified_asked_again_and_compared(tmp_path: Path) -> None:
    size = ["--variants", "10", "--kills", "2", "--replay", "17"]
    command = [sys.executable, "-m", "demo.batch", *size, "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "50 items, 300 rounds" in done.stdout
    assert "17 items, 102 rounds, each twice; 0 unlike" in done.stdout
    assert "in 0 rounds and 0 pixels by more than a logit within 0.0001 of 0" in done.stdout
    assert "labels     101 files" in done.stdout, "50 images, their label maps, and what describes them"
    assert (tmp_path / "demo/report/index.html").is_file()
    assert "Verdict: within tolerances" in (tmp_path / "demo/report/comparison.html").read_text()
