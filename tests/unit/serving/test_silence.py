"""ONNX Runtime makes no id of this machine and keeps no events to send, whatever of ours imports it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def left_by(imports: str, home: Path) -> list[Path]:
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    subprocess.run([sys.executable, "-c", imports], check=True, env={**kept, "HOME": str(home)})
    return [path for path in home.rglob("*") if "onnxruntime" in str(path)]


def test_onnx_runtime_by_itself_does(tmp_path: Path) -> None:
    """Else the tests below show nothing; when this fails, serving/__init__.py may have lost its reason."""
    assert left_by("import onnxruntime", tmp_path)


@pytest.mark.parametrize("module", ["serving.runtime.graph", "exporters.compare.parity"])
def test_silence(module: str, tmp_path: Path) -> None:
    assert not left_by(f"import {module}, sys; assert 'onnxruntime' in sys.modules", tmp_path)
