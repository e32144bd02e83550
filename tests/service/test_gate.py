"""The shipped held-out slices through real servers: a bundle with noise on its decoder does not pass the gate."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from demo.heldout import write
from exporters.compare.gate import GateTolerance, judge, read
from loadtest.server_process import launched
from mediround.evaluate import EvaluationReport, Options, evaluate
from serving.bundle import MANIFEST, MASK_DECODER
from tests.conftest import REPOSITORY

LITE = REPOSITORY / "models" / "mediround-lite"
ITEMS = 2
NOISE = 0.3
"""Of each matrix' standard deviation."""


def damaged(out: Path) -> Path:
    """A copy of the bundle with noise on its decoder's weights, under a manifest that fits."""
    out.mkdir()
    manifest = json.loads((LITE / MANIFEST).read_text())
    for name in manifest["files"]:
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(LITE / name, out / name)
    graph = onnx.load(out / MASK_DECODER)
    random, touched = np.random.default_rng(0), 0
    for weight in graph.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.ndim > 1 and np.issubdtype(values.dtype, np.floating):
            noise = NOISE * values.std() * random.standard_normal(values.shape)
            weight.CopyFrom(numpy_helper.from_array((values + noise).astype(values.dtype), weight.name))
            touched += 1
    assert touched > 20
    onnx.save(graph, out / MASK_DECODER)
    manifest["files"][MASK_DECODER] = hashlib.sha256((out / MASK_DECODER).read_bytes()).hexdigest()
    (out / MANIFEST).write_text(json.dumps(manifest))
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first dialogues of the held-out set."""
    root = tmp_path_factory.mktemp("heldout")
    assert write(LITE / "slices", root) > 20
    path = root / "dialogues.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:ITEMS]))
    return path


def evaluated(bundle: Path, data: Path, *outs: Path) -> EvaluationReport:
    """The last report of as many runs as there are directories for them."""
    with launched(bundle, outs[0].with_suffix(".log")) as server:
        for out in outs:
            report = evaluate(server.address, data, data.parent, out, Options(answers="free", concurrency=2))
    assert not report.failures
    return report


def test_a_damaged_decoder_fails_the_gate_and_the_same_bundle_passes(data: Path, tmp_path: Path) -> None:
    report = evaluated(LITE, data, tmp_path / "sound", tmp_path / "again")
    assert report.overall is not None
    assert report.overall.dice > 0.6
    evaluated(damaged(tmp_path / "bundle"), data, tmp_path / "damaged")
    sound = read(tmp_path / "sound")
    assert not judge(sound, read(tmp_path / "again"), GateTolerance()).problems
    verdict = judge(sound, read(tmp_path / "damaged"), GateTolerance())
    assert verdict.overall.loss > 0.02
    assert any("Dice fell" in problem for problem in verdict.problems)
    assert any("flipped" in problem for problem in verdict.problems)
