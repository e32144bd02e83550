"""``make true-size`` from end to end, at the size between: one checkpoint, one export, one start of vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.contract.conftest import needs_vllm


@pytest.mark.timeout(600)
def test_what_is_served_is_what_the_plain_loop_computes(tmp_path: Path) -> None:
    needs_vllm()
    command = [sys.executable, "-m", "benchmarks.true_size", "--size", "mediround-0.4b", "--consume"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "All agree." in done.stdout
    assert done.stdout.count(": refused") == 6
    findings = json.loads((tmp_path / "findings.json").read_text())
    assert sum("feature" in each["what"] for each in findings) == 3
    assert sum("word" in each["what"] for each in findings) >= 1
    assert all(each["limit"] > 0 for each in findings), "a limit of 0 would mean that both loops are one"
    assert not list((tmp_path / "checkpoint").glob("*.bin")), "consumed"
