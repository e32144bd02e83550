"""Bundles in another precision: what the cast keeps, what the comparison finds, and what is not written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from exporters import drift, precision
from exporters.asked import Asked, ask, made_up
from exporters.drift import Comparison, Figures, Limits
from exporters.emulation import Emulated
from exporters.errors import UnsupportedSourceError
from exporters.precision import HEADS, Precision
from exporters.variant import PRECISION_REPORT, Form, write_variant
from serving.bundle import IMAGE_ENCODER, MASK_DECODER, Bundle, load_bundle
from serving.vision.onnx import OnnxVision

HALVES: tuple[Precision, ...] = ("fp16", "bf16")
ANY = Limits(cosine=-1, flipped=1, iou=0, predicted_iou=10, score=10)


@pytest.fixture(scope="session")
def questions(random_bundle: Bundle) -> list[Asked]:
    return ask(random_bundle, list(made_up()), threads=2)


@pytest.fixture(scope="session")
def fp16(random_bundle: Bundle, questions: list[Asked], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("variant") / "fp16"
    verdict = write_variant(
        random_bundle, Form("fp16", "float32"), out, Comparison(questions, ANY), lambda _: None
    )
    assert verdict.problems == ()
    return load_bundle(out)


def cast(bundle: Bundle, graph: str, to: Precision) -> ir.Model:
    model = ir.load(bundle.path(graph))
    precision.cast(model, to, "float32")
    return model


def makers(model: ir.Model, names: tuple[str, ...]) -> set[ir.Node]:
    found: set[ir.Node] = set()
    waiting = [value.producer() for value in model.graph.outputs if value.name in names]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += node.predecessors()
    return found


@pytest.mark.parametrize("to", HALVES)
def test_judge_and_corrector_stay_in_float32(random_bundle: Bundle, to: Precision) -> None:
    model = cast(random_bundle, MASK_DECODER, to)
    heads = makers(model, HEADS)
    assert heads
    for node in heads:
        assert all(v is None or v.dtype != precision.ELEMENTS[to] for v in (*node.inputs, *node.outputs))


@pytest.mark.parametrize("to", HALVES)
@pytest.mark.parametrize("graph", [IMAGE_ENCODER, MASK_DECODER])
def test_what_multiplies_is_in_the_precision(random_bundle: Bundle, graph: str, to: Precision) -> None:
    model = cast(random_bundle, graph, to)
    heads = makers(model, HEADS)
    products = [n for n in model.graph if n.op_type in {"MatMul", "Gemm", "Conv"} and n not in heads]
    computed = [n for n in products if n.outputs[0].dtype == precision.ELEMENTS[to]]
    assert len(computed) > 10
    # What no input reaches, the dense position code, is computed once, in float32.
    assert len(products) - len(computed) <= 2


@pytest.mark.parametrize("graph", [IMAGE_ENCODER, MASK_DECODER])
def test_a_cast_to_float32_changes_nothing(random_bundle: Bundle, graph: str, questions: list[Asked]) -> None:
    model, path = cast(random_bundle, graph, "fp32"), random_bundle.path(graph)
    assert not [n for n in model.graph if n.op_type == "Cast" and n.inputs[0].dtype == ir.DataType.FLOAT16]
    assert [v.name for v in model.graph.outputs] == [v.name for v in ir.load(path).graph.outputs]


def test_an_edge_in_float16_is_in_the_graphs_and_the_manifest(
    random_bundle: Bundle, questions: list[Asked], tmp_path: Path
) -> None:
    comparison = Comparison(questions, ANY)
    write_variant(random_bundle, Form("fp16", "float16"), tmp_path / "out", comparison, lambda _: None)
    made = load_bundle(tmp_path / "out")
    assert made.manifest.image.embedding_dtype == "float16"
    (output,) = onnxruntime.InferenceSession(
        made.path(IMAGE_ENCODER), providers=["CPUExecutionProvider"]
    ).get_outputs()
    assert output.type == "tensor(float16)"


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
    random_bundle: Bundle, questions: list[Asked], tmp_path: Path
) -> None:
    strict = replace(ANY, cosine=1.0)
    verdict = write_variant(
        random_bundle, Form("bf16", "float32"), tmp_path / "out", Comparison(questions, strict), lambda _: None
    )
    assert [problem.partition(" 0")[0] for problem in verdict.problems] == ["embedding cosine"]
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.iterdir()), "nothing half made stays"


def test_a_variant_of_a_variant_is_refused(fp16: Bundle, questions: list[Asked], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSourceError, match="from the float32 bundle"):
        write_variant(fp16, Form("bf16", "float32"), tmp_path / "out", Comparison(questions), lambda _: None)


def test_a_full_directory_is_not_written_over(
    random_bundle: Bundle, questions: list[Asked], tmp_path: Path
) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UnsupportedSourceError, match="is not empty"):
        write_variant(random_bundle, Form("fp16", "float32"), tmp_path, Comparison(questions), lambda _: None)


def test_the_layer_that_overflows_is_named(random_bundle: Bundle, questions: list[Asked], tmp_path: Path) -> None:
    """One weight of a block is set so that its product is beyond fp16's range: the report leads there."""
    full, variant = tmp_path / "full", tmp_path / "variant"
    for directory in (full, variant):
        directory.mkdir()
    for graph in (IMAGE_ENCODER, MASK_DECODER):
        model = ir.load(random_bundle.path(graph))
        precision.unstore(model)
        if graph == IMAGE_ENCODER:
            broken = _enlarge_one_product(model)
        ir.save(model, full / graph)
        precision.cast(model, "fp16", "float32")
        ir.save(model, variant / graph)
    verdict = drift.judge(full, variant, Comparison(questions))
    assert verdict.figures.not_finite > 0
    assert verdict.first_drifted is not None
    assert verdict.first_drifted.value == broken
    assert verdict.first_drifted.drift == float("inf")


def _enlarge_one_product(model: ir.Model) -> str:
    """The middle one of those with weights; returns its output's name."""
    found = [n for n in model.graph if n.op_type == "MatMul" and n.inputs[1].const_value is not None]
    node = found[len(found) // 2]
    weight = node.inputs[1]
    weight.const_value = ir.Tensor(weight.const_value.numpy() * np.float32(1e6), name=weight.name)
    return node.outputs[0].name or ""


def test_the_emulation_of_float32_is_onnxruntime(random_bundle: Bundle, questions: list[Asked]) -> None:
    path = random_bundle.path(IMAGE_ENCODER)
    feeds = {
        "image_u8": questions[0].image.pixels[np.newaxis],
        "valid_hw": np.array([questions[0].image.valid_hw], np.int32),
    }
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, feeds)
    np.testing.assert_allclose(Emulated(path, 2)(feeds)["image_embeddings"], expected, atol=1e-5)


GOOD = Figures(
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
    assert GOOD.problems(Limits()) == ()
    (problem,) = replace(GOOD, **changes).problems(Limits())
    assert words in problem
