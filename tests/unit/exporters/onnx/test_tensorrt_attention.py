"""Attention as TensorRT takes it: the same results, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from exporters.onnx import half_precision
from exporters.onnx.half_precision import Precision
from exporters.onnx.tensorrt_attention import taken_form
from serving.bundle import IMAGE_ENCODER, MASK_DECODER, Bundle


def widths(graph: Path) -> list[tuple[object, ...]]:
    attention = [node for node in ir.load(graph).graph if node.op_type == "Attention"]
    return [tuple(v.shape[-1] for v in node.inputs if v is not None and v.shape) for node in attention]


@pytest.mark.parametrize(
    ("precision", "taken", "tolerance"), [("fp32", [], 1e-5), ("fp16", [(60, 60, 60), (160, 160, 160)], 5e-3)]
)
def test_the_encoder_computes_the_same(
    random_bundle: Bundle, tmp_path: Path, precision: Precision, taken: list[tuple[int, ...]], tolerance: float
) -> None:
    model = ir.load(random_bundle.path(IMAGE_ENCODER))
    half_precision.cast(model, precision, "float32")
    graph = tmp_path / "given" / IMAGE_ENCODER
    graph.parent.mkdir()
    ir.save(model, graph)
    wide = taken_form(graph, tmp_path)
    assert wide == tmp_path / IMAGE_ENCODER
    assert widths(graph) == [(60, 60, 32), (160, 160, 32)]
    assert widths(wide) == taken
    draw = np.random.default_rng(0)
    feeds = {
        "image_u8": draw.integers(0, 256, (1, 1024, 1024, 3), np.uint8),
        "valid_hw": np.array([[1024, 600]], np.int32),
    }
    expected, actual = (onnxruntime.InferenceSession(path).run(None, feeds)[0] for path in (graph, wide))
    np.testing.assert_allclose(actual, expected, atol=tolerance)


def test_a_graph_without_attention_is_itself(random_bundle: Bundle, tmp_path: Path) -> None:
    graph = random_bundle.path(MASK_DECODER)
    assert taken_form(graph, tmp_path) == graph
    assert not any(tmp_path.iterdir())
