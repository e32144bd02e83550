"""No runtime makes an id of this machine, or keeps or sends what it counts, whatever of ours imports or starts it.

vLLM's variables are in tests/unit/llm/test_vllm_engine.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.triton.server import Installation
from mediround.annotate.engines.ray import _cluster


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


BY_US = """
import sys
sys.addaudithook(lambda name, _: sys.exit(f"it opens a connection: {name}") if name == "socket.connect" else None)
import numpy as np
from pathlib import Path
from serving.runtime.worker import Stop
from serving.vision.openvino import OpenVinoEncoder
from tests.unit.runtime.graphs import ROWS, WIDTH, products
rows = np.ones((1, WIDTH), np.float32)
OpenVinoEncoder(products(Path("graph.onnx"), 1), ROWS, 1, "f32").run_into({"x": rows}, np.empty_like(rows), Stop())
"""


@pytest.mark.parametrize(
    ("program", "silent"), [("import openvino", False), (BY_US, True)], ids=["alone", "by us"]
)
def test_openvino(tmp_path: Path, program: str, silent: bool) -> None:
    """Alone it makes an id, else the other shows nothing; when that fails, its module may have lost a line."""
    pytest.importorskip("openvino")
    (home := tmp_path / "home").mkdir()
    path = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), "HOME": str(home)}
    kept = {name: value for name, value in os.environ.items() if name != "CI"}  # there it keeps still by itself
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env={**kept, **path})
    assert (list(home.rglob("*")) == []) is silent


def test_onnx_runtime_in_tritons_stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    installed = Installation(tmp_path)
    installed.python.parent.mkdir(parents=True)
    installed.python.symlink_to(sys.executable)
    assert installed.environment()["ORT_DISABLE_TELEMETRY"] == "1"


def test_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from ray._common.usage import usage_lib  # noqa: PLC0415  # a second

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    assert usage_lib.usage_stats_enabled()
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", list)
    with _cluster(None):
        assert not usage_lib.usage_stats_enabled()
