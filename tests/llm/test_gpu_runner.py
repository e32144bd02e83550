"""vLLM's model runner V2, which a GPU has, on the CPU build: the same suites again, in a Python of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.contract.conftest import needs_vllm

HERE = Path(__file__).parent / "gpu_runner"
SUITES = (
    HERE / "pressure.py",
    "tests/parity/test_golden.py",
    "tests/contract/test_language.py",
    "tests/contract/test_vllm.py",
)
CHOSEN = "(vllm or gpu_runner) and not compiled and not killed and not pipeline"
"""What is compiled does not start here. Which process died, and what is refused before a runner is made, are shown
on the other runner, at a start of vLLM each."""
SHOWN = 12_000
"""Characters of what the other Python says, where it fails."""


@pytest.mark.timeout(1200)  # one test here, some hundred there, each with a limit of its own
def test_contract_golden_vectors_and_pressure_on_the_runner_of_a_gpu() -> None:
    needs_vllm()
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    on_v2 = {"PYTHONPATH": path, "TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-k",
        CHOSEN,
        *SUITES,
    ]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **on_v2}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-SHOWN:]
    assert re.search(r"^[1-9]\d+ passed", done.stdout, re.MULTILINE)
