"""``make demo``'s own command on the bundled model: what a newcomer sees first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.parametrize("vision", ["onnx", "triton"])
def test_the_demo_draws_the_bundled_models_masks(
    vision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if vision == "triton":
        request.getfixturevalue("installation")
    command = [sys.executable, "-m", "demo", "--bundle", "models/mediround-lite", "--out", str(tmp_path)]
    command += ["--vision", vision]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(len(line) for line in done.stdout.splitlines() if "index.html" not in line) <= 80
    found = re.search(r"(\d+) rounds in \d+ s, mean Dice (\d\.\d+)", done.stdout)
    assert found is not None
    assert int(found[1]) == 18
    assert float(found[2]) > 0.82
    pictures = sorted(path.stem for path in tmp_path.glob("*.png"))
    assert pictures == ["slice_z043", "slice_z073", "slice_z076", "slice_z104", "two_sittings"]
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png") == 5
    assert "it has round 0 (amended)" in page, "undone, corrected, and there after the restart"
    assert "Its reference: amended, by hand" in page
    assert "not for clinical use" in page
