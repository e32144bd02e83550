"""Bundles in another precision: what the cast keeps, what passes the limits, and what is not written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from exporters.compare.drift import Comparison, DriftLimits
from exporters.compare.recorded_inputs import DecodeInputs
from exporters.errors import UnsupportedSourceError
from exporters.onnx import half_precision
from exporters.onnx.half_precision import HEADS, Precision
from exporters.variant import PRECISION_REPORT, Form, write_variant
from serving.bundle import IMAGE_ENCODER, MASK_DECODER, Bundle, load_bundle
from serving.ports import DecodedMasks
from serving.stores.embeddings import MemoryEmbeddings
from serving.vision.onnx import OnnxVision
from tests.unit.exporters.graphs import makers

HALVES: tuple[Precision, ...] = ("fp16", "bf16")


@pytest.fixture(scope="session")
def fp16(random_bundle: Bundle, questions: list[DecodeInputs], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("variant") / "fp16"
    verdict = write_variant(random_bundle, Form("fp16", "float32"), out, Comparison(questions), lambda _: None)
    assert verdict.problems == ()
    return load_bundle(out)


@pytest.fixture(scope="session")
def lite_in_half(
    lite_bundle: Bundle, held_out: list[DecodeInputs], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Real weights, with embeddings in float16 as well."""
    out = tmp_path_factory.mktemp("variant") / "lite"
    verdict = write_variant(lite_bundle, Form("fp16", "float16"), out, Comparison(held_out), lambda _: None)
    assert verdict.problems == ()
    return load_bundle(out)


def cast(bundle: Bundle, graph: str, to: Precision) -> ir.Model:
    model = ir.load(bundle.path(graph))
    half_precision.cast(model, to, "float32")
    return model


@pytest.mark.parametrize("to", HALVES)
def test_judge_and_corrector_stay_in_float32(random_bundle: Bundle, to: Precision) -> None:
    model = cast(random_bundle, MASK_DECODER, to)
    heads = makers(model, HEADS)
    assert heads
    for node in heads:
        assert all(v is None or v.dtype != half_precision.ELEMENTS[to] for v in (*node.inputs, *node.outputs))


@pytest.mark.parametrize("to", HALVES)
@pytest.mark.parametrize("graph", [IMAGE_ENCODER, MASK_DECODER])
def test_what_multiplies_is_in_the_precision(random_bundle: Bundle, graph: str, to: Precision) -> None:
    model = cast(random_bundle, graph, to)
    heads = makers(model, HEADS)
    products = [n for n in model.graph if n.op_type in {"MatMul", "Gemm", "Conv"} and n not in heads]
    computed = [n for n in products if n.outputs[0].dtype == half_precision.ELEMENTS[to]]
    assert len(computed) > 10
    # What no input reaches, the dense position code, is computed once, in float32.
    assert len(products) - len(computed) <= 2


@pytest.mark.parametrize("bundle", ["random_bundle", "lite_bundle"])
@pytest.mark.parametrize("graph", [IMAGE_ENCODER, MASK_DECODER])
def test_a_cast_to_float32_changes_nothing(
    request: pytest.FixtureRequest, bundle: str, graph: str, tmp_path: Path
) -> None:
    """To the last bit, whether weights are stored in float32 (random) or in float16 (lite)."""
    path = request.getfixturevalue(bundle).path(graph)
    ir.save(cast(request.getfixturevalue(bundle), graph, "fp32"), tmp_path / graph)
    feeds = inputs(path)
    for expected, actual in zip(run(path, feeds), run(tmp_path / graph, feeds), strict=True):
        assert np.array_equal(expected, actual, equal_nan=True)


@pytest.mark.parametrize("graph", [IMAGE_ENCODER, MASK_DECODER])
def test_halved_weights_become_whole(lite_bundle: Bundle, graph: str) -> None:
    model = ir.load(lite_bundle.path(graph))
    halves = {n: v.const_value for n, v in model.graph.initializers.items() if v.dtype == ir.DataType.FLOAT16}
    assert halves
    half_precision.unstore(model)
    weights = model.graph.initializers
    assert ir.DataType.FLOAT16 not in {weight.dtype for weight in weights.values()}
    for name, half in halves.items():
        whole = weights[name.removesuffix("_fp16")].const_value
        assert half is not None
        assert whole is not None
        assert whole.dtype == ir.DataType.FLOAT
        assert np.array_equal(whole.numpy(), half.numpy().astype(np.float32))


def inputs(path: Path) -> dict[str, np.ndarray]:
    """One image, or two features, drawn by chance."""
    draw = np.random.default_rng(0)
    if path.name == MASK_DECODER:
        return {
            "image_embeddings": draw.standard_normal((1, 256, 64, 64), np.float32),
            "seg_features": draw.standard_normal((1, 2, 256), np.float32),
            "threshold": np.array([[0.0, 1.0]], np.float32),
        }
    side = opened(path).get_inputs()[0].shape[1]
    return {
        "image_u8": draw.integers(0, 256, (1, side, side, 3), np.uint8),
        "valid_hw": np.array([[side, side // 2]], np.int32),
    }


def opened(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    outputs: list[np.ndarray] = opened(path).run(None, feeds)
    return outputs


def test_an_edge_in_float16_is_in_the_graphs_and_the_manifest(lite_in_half: Bundle) -> None:
    assert lite_in_half.manifest.image.embedding_dtype == "float16"
    (output,) = opened(lite_in_half.path(IMAGE_ENCODER)).get_outputs()
    assert output.type == "tensor(float16)"
    assert opened(lite_in_half.path(MASK_DECODER)).get_inputs()[0].type == "tensor(float16)"


async def test_embeddings_in_float16_are_kept_and_decoded(
    lite_bundle: Bundle, lite_in_half: Bundle, held_out: list[DecodeInputs]
) -> None:
    """By the engine and the store that serve, in onnxruntime: half the bytes, and masks within the limits."""
    limits, asked = DriftLimits(), held_out[0]
    full, half = [await served(bundle, asked) for bundle in (lite_bundle, lite_in_half)]
    assert (full[0].dtype, half[0].dtype) == (np.float32, np.float16)
    assert full[0].nbytes == 2 * half[0].nbytes
    a, b = (embedding.astype(np.float64).ravel() for embedding, _ in (full, half))
    assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) >= limits.cosine
    flipped, scores = [], []
    for expected, actual in zip(full[1], half[1], strict=True):
        flipped.append(np.mean((expected.logits > 0) != (actual.logits > 0)))
        scores.append(np.abs(expected.scores - actual.scores).max())
        assert np.array_equal(expected.corrected, actual.corrected)
    assert any((decoded.logits > 0).any() for decoded in full[1])
    assert np.mean(flipped) <= limits.flipped
    assert max(scores) <= limits.score


async def served(bundle: Bundle, asked: DecodeInputs) -> tuple[np.ndarray, list[DecodedMasks]]:
    """The embedding as it is kept, and all that is decoded on it."""
    image = bundle.manifest.image
    engine = OnnxVision(bundle, threads=2)
    store = MemoryEmbeddings.of(image, 1 << 24)
    lease = await store.acquire(asked.image.key, lambda lease: engine.encode(asked.image, lease))
    decoded = [await engine.decode(lease, *batch) for batch in asked.batches]
    await engine.close()
    return lease.values, decoded


async def test_a_variant_is_a_bundle_that_serves(random_bundle: Bundle, fp16: Bundle) -> None:
    """onnxruntime has fp16 on a CPU."""
    engine = OnnxVision(fp16, threads=1)
    await engine.close()
    assert fp16.digest != random_bundle.digest
    assert fp16.manifest.source["bundle"] == random_bundle.digest
    assert fp16.path(IMAGE_ENCODER).stat().st_size < random_bundle.path(IMAGE_ENCODER).stat().st_size * 1.05


def test_the_report_is_in_the_bundle(random_bundle: Bundle, fp16: Bundle) -> None:
    report = json.loads(fp16.path(PRECISION_REPORT).read_text())
    assert report["made_from"] == random_bundle.digest
    assert report["figures"]["masks"] > 0
    assert PRECISION_REPORT in fp16.manifest.files


def test_a_variant_that_is_not_close_is_not_written(
    random_bundle: Bundle, questions: list[DecodeInputs], tmp_path: Path
) -> None:
    strict = replace(DriftLimits(), cosine=1.0)
    verdict = write_variant(
        random_bundle, Form("fp16", "float32"), tmp_path / "out", Comparison(questions, strict), lambda _: None
    )
    (problem,) = verdict.problems
    assert problem.startswith("embedding cosine")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.iterdir()), "nothing half made stays"


def test_real_weights_that_are_not_close_are_not_written(
    lite_bundle: Bundle, held_out: list[DecodeInputs], tmp_path: Path
) -> None:
    """MediRound-Lite in bf16, under the limits that everybody gets, and the first layer that drifted."""
    out = tmp_path / "out"
    verdict = write_variant(lite_bundle, Form("bf16", "float32"), out, Comparison(held_out[:1]), lambda _: None)
    assert any(problem.startswith("embedding cosine") for problem in verdict.problems)
    assert verdict.first_drifted is not None
    assert verdict.first_drifted.module
    assert not out.exists()


def test_a_variant_of_a_variant_is_refused(fp16: Bundle, questions: list[DecodeInputs], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSourceError, match="from the float32 bundle"):
        write_variant(fp16, Form("bf16", "float32"), tmp_path / "out", Comparison(questions), lambda _: None)


def test_a_full_directory_is_not_written_over(
    random_bundle: Bundle, questions: list[DecodeInputs], tmp_path: Path
) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UnsupportedSourceError, match="is not empty"):
        write_variant(random_bundle, Form("fp16", "float32"), tmp_path, Comparison(questions), lambda _: None)
