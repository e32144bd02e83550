"""The Python of clients/README.md runs, on the server that it speaks of."""

from __future__ import annotations

import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mediround
from tests.examples.conftest import BUNDLE, REPOSITORY

TEXT = (REPOSITORY / "clients" / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
WRITTEN_ADDRESS = "127.0.0.1:50051"


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_runs(block: str, address: str, tmp_path: Path) -> None:
    if "example:" in block:  # a server that is not there
        block = block.partition("\n\n")[0]
    shutil.copy(BUNDLE / "slices" / "slice_z076.png", tmp_path / "slice.png")
    command = [sys.executable, "-W", "error", "-c", block.replace(WRITTEN_ADDRESS, address)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_each_module_is_said_to_be_public_or_not() -> None:
    modules = [module.name for module in pkgutil.iter_modules(mediround.__path__) if module.name[0] != "_"]
    assert len(modules) >= 10
    assert [name for name in modules if f"`mediround.{name}`" not in TEXT.partition("## What is public")[2]] == []


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 5
    assert sum(WRITTEN_ADDRESS in block for block in BLOCKS) >= 3
