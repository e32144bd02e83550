"""How far a variant is from float32: which figures fail, and the layer that is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from exporters.__main__ import main
from exporters.compare import drift, recorded_inputs
from exporters.compare.drift import Comparison, DriftFigures, DriftLimits
from exporters.compare.recorded_inputs import DecodeInputs
from exporters.onnx import half_precision
from exporters.onnx.emulation import Emulated
from exporters.onnx.first_difference import DRIFTED
from serving.bundle import IMAGE_ENCODER, MANIFEST, MASK_DECODER, Bundle, file_digest
from tests.unit.exporters.graphs import makers

TOO_LARGE, TOO_SMALL = 1e6, 1e-6
"""A weight becomes infinite in float16; or has hardly a bit left there."""
NOTHING_PASSES = DriftLimits(cosine=2.0)


@pytest.mark.parametrize("factor", [TOO_LARGE, TOO_SMALL])
@pytest.mark.parametrize("graph", [IMAGE_ENCODER, MASK_DECODER])
def test_the_layer_that_drifts_first_is_named(
    random_bundle: Bundle, questions: list[DecodeInputs], tmp_path: Path, graph: str, factor: float
) -> None:
    """The weight of one product is scaled so that float16 cannot hold it: the report leads there."""
    full, variant = tmp_path / "full", tmp_path / "variant"
    for directory in (full, variant):
        directory.mkdir()
    for name in (IMAGE_ENCODER, MASK_DECODER):
        model = ir.load(random_bundle.path(name))
        if name == graph:
            broken = scale_one_product(model, factor)
        ir.save(model, full / name)
        half_precision.cast(model, "fp16", "float32")
        ir.save(model, variant / name)
    verdict = drift.judge(full, variant, Comparison(questions[:1], NOTHING_PASSES))
    found = verdict.first_drifted
    assert found is not None
    assert (found.graph, found.value, found.operator) == (graph, broken, "MatMul")
    assert found.module
    if factor == TOO_LARGE:
        assert verdict.figures.not_finite > 0
        assert found.drift == float("inf")
    else:
        assert verdict.figures.not_finite == 0
        assert DRIFTED < found.drift < 1.5


def test_no_layer_is_named_when_none_drifts(random_bundle: Bundle, questions: list[DecodeInputs]) -> None:
    directory = random_bundle.directory
    verdict = drift.judge(directory, directory, Comparison(questions[:1], NOTHING_PASSES))
    assert verdict.figures.embedding_difference == 0
    assert verdict.problems
    assert verdict.first_drifted is None


def test_an_overflow_is_reported_in_json_that_every_parser_reads(
    random_bundle: Bundle,
    questions: list[DecodeInputs],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command, from the bundle to what it prints; what the image half is asked is known already."""
    broken = tmp_path / "broken"
    shutil.copytree(random_bundle.directory, broken)
    model = ir.load(broken / IMAGE_ENCODER)
    scale_one_product(model, TOO_LARGE)
    ir.save(model, broken / IMAGE_ENCODER)
    manifest = json.loads((broken / MANIFEST).read_text())
    manifest["files"][IMAGE_ENCODER] = file_digest(broken / IMAGE_ENCODER)
    (broken / MANIFEST).write_text(json.dumps(manifest))
    monkeypatch.setattr(recorded_inputs, "ask", lambda *_: questions[:1])
    out = tmp_path / "out"
    assert main(["vision", "--bundle", str(broken), "--precision", "fp16", "--out", str(out)]) == 1
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report["first_drifted"]["drift"] == "Infinity"
    assert report["figures"]["embedding_cosine"] == "NaN"
    assert not out.exists()


def scale_one_product(model: ir.Model, factor: float) -> str:
    """The middle one of those with weights that a cast moves; returns its output's name."""
    judged = makers(model, half_precision.HEADS)
    found = [
        node
        for node in model.graph
        if node.op_type == "MatMul" and node.inputs[1].const_value is not None and node not in judged
    ]
    node = found[len(found) // 2]
    weight = node.inputs[1]
    weight.const_value = ir.Tensor(weight.const_value.numpy() * np.float32(factor), name=weight.name)
    return node.outputs[0].name or ""


def test_the_emulation_of_float32_is_onnxruntime(random_bundle: Bundle, questions: list[DecodeInputs]) -> None:
    path = random_bundle.path(IMAGE_ENCODER)
    feeds = {
        "image_u8": questions[0].image.pixels[np.newaxis],
        "valid_hw": np.array([questions[0].image.valid_hw], np.int32),
    }
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, feeds)
    np.testing.assert_allclose(Emulated(path, 2)(feeds)["image_embeddings"], expected, atol=1e-5)


GOOD = DriftFigures(
    images=1,
    masks=1,
    embedding_cosine=1.0,
    embedding_difference=0.0,
    flipped_share=0.0,
    mask_iou_mean=1.0,
    mask_iou_least=1.0,
    predicted_iou_difference=0.0,
    score_difference=0.0,
    corrected_differ=0,
    not_finite=0,
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"not_finite": 1}, "not finite"),
        ({"embedding_cosine": 0.99}, "cosine"),
        ({"embedding_cosine": float("nan")}, "cosine"),
        ({"flipped_share": 0.01}, "signs flipped"),
        ({"mask_iou_mean": 0.9}, "mean mask IoU"),
        ({"predicted_iou_difference": 0.1}, "predicted IoU"),
        ({"score_difference": 0.01}, "score"),
        ({"corrected_differ": 1}, "corrected"),
    ],
)
def test_each_figure_can_fail(changes: dict[str, float], words: str) -> None:
    assert GOOD.problems(DriftLimits()) == ()
    (problem,) = replace(GOOD, **changes).problems(DriftLimits())
    assert words in problem
