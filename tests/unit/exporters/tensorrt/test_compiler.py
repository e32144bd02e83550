"""Every graph in every precision through TensorRT's own parser and builder, without a GPU.

The shipped small model (TinyViT at 256), a small SAM ViT at 1024, and SAM ViT-B at 1024 with random weights.

TensorRT-RTX builds real engines for an architecture that is named; what it refuses, TensorRT refuses.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from exporters.onnx import half_precision
from exporters.onnx.half_precision import Edge, Precision
from exporters.onnx.tensorrt_attention import adapt, taken_form
from exporters.tensorrt.build import profile_for
from exporters.tensorrt.compiler import BuildError, BuildRequest, Compiler, EngineUnavailableError, Range
from exporters.triton_repository import BatchLimits
from serving.bundle import IMAGE_ENCODER, MASK_DECODER, Bundle

LIMITS = {IMAGE_ENCODER: BatchLimits(2, None), MASK_DECODER: BatchLimits(8, 4)}
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
ADA = "8.9"


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    import tensorrt_rtx  # noqa: PLC0415  # only these tests need it

    return tensorrt_rtx


@pytest.fixture(scope="session")
def compiler(rtx: ModuleType) -> Compiler:
    return Compiler(rtx)


@pytest.fixture(params=["lite_bundle", "random_bundle"])
def small_bundle(request: pytest.FixtureRequest) -> Bundle:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]  # of a fixture


def request_for(bundle: Bundle, graph: str) -> BuildRequest:
    return BuildRequest(bundle.path(graph), profile_for(bundle.manifest, graph, LIMITS[graph]), ADA)


def cast(path: Path, to: Precision, out: Path, edge: Edge = "float32") -> Path:
    model = ir.load(path)
    half_precision.cast(model, to, edge)
    adapt(model)
    ir.save(model, out / path.name)
    return out / path.name


@pytest.mark.parametrize("graph", LIMITS)
@pytest.mark.parametrize("to", PRECISIONS)
def test_it_builds(compiler: Compiler, small_bundle: Bundle, graph: str, to: Precision, tmp_path: Path) -> None:
    """And has nothing to say: a LayerNorm in pieces would be an overflow to be expected in fp16."""
    request = request_for(small_bundle, graph)
    built = compiler.build(replace(request, graph=cast(request.graph, to, tmp_path)))
    assert len(built.plan) > 100_000
    assert built.warnings == ()
    assert built.timings is None  # this module keeps none


@pytest.mark.parametrize("to", PRECISIONS)
def test_it_builds_at_the_published_size(
    compiler: Compiler, vit_b_bundle: Bundle, to: Precision, tmp_path: Path
) -> None:
    """SAM ViT-B at 1024."""
    assert vit_b_bundle.manifest.image.side == 1024
    for graph in LIMITS:
        request = request_for(vit_b_bundle, graph)
        made = cast(request.graph, to, tmp_path)
        built = compiler.build(replace(request, graph=made))
        made.unlink()
        assert len(built.plan) > 10_000_000
        assert built.warnings == ()
        assert built.activation is not None
        # Beside vLLM's 0.7 of 24 GB, both plans' activations leave room for weights and for Triton itself.
        assert built.activation < (4e9 if graph == IMAGE_ENCODER else 1e9)


@pytest.mark.parametrize(("to", "fused"), [("fp32", False), ("fp16", True), ("bf16", True)])
def test_half_precision_holds_no_array_of_weights(
    compiler: Compiler, vit_b_bundle: Bundle, to: Precision, fused: bool, tmp_path: Path
) -> None:
    """A global block's attention is one kernel: less memory does than 12 x 4096 x 4096 halves."""
    profile = profile_for(vit_b_bundle.manifest, IMAGE_ENCODER, BatchLimits(1, None))
    graph = cast(vit_b_bundle.path(IMAGE_ENCODER), to, tmp_path)
    built = compiler.build(BuildRequest(graph, profile, ADA))
    assert built.activation is not None
    assert (built.activation < 12 * 4096 * 4096 * 2) is fused


def test_values_narrower_than_keys_are_refused(compiler: Compiler, random_bundle: Bundle, tmp_path: Path) -> None:
    """Why ``exporters.onnx.tensorrt_attention`` is there."""
    request = request_for(random_bundle, IMAGE_ENCODER)
    with pytest.raises(BuildError, match="Key and Value must have the same shape"):
        compiler.build(request)
    wide = taken_form(request.graph, tmp_path)
    assert compiler.build(replace(request, graph=wide)).warnings == ()


@pytest.mark.parametrize("graph", LIMITS)
def test_it_builds_what_a_bundle_stores_in_half(compiler: Compiler, lite_bundle: Bundle, graph: str) -> None:
    """As the bundle has it: float16 weights behind a Cast, float32 in every computation."""
    request = request_for(lite_bundle, graph)
    stored = {weight.dtype for weight in ir.load(request.graph).graph.initializers.values()}
    assert ir.DataType.FLOAT16 in stored
    assert compiler.build(request).warnings == ()


@pytest.mark.parametrize("graph", LIMITS)
def test_it_builds_with_embeddings_in_half(
    compiler: Compiler, lite_bundle: Bundle, graph: str, tmp_path: Path
) -> None:
    request = request_for(lite_bundle, graph)
    made = cast(request.graph, "fp16", tmp_path, "float16")
    edges = [
        v
        for v in (*ir.load(made).graph.inputs, *ir.load(made).graph.outputs)
        if v.name == half_precision.EMBEDDINGS
    ]
    assert [edge.dtype for edge in edges] == [ir.DataType.FLOAT16]
    built = compiler.build(replace(request, graph=made))
    assert len(built.plan) > 100_000
    assert built.warnings == ()


def test_tf32_is_cleared_in_the_real_builders_configuration(rtx: ModuleType, compiler: Compiler) -> None:
    """It is set by default."""
    config = rtx.Builder(compiler._logger).create_builder_config()
    assert config.get_flag(rtx.BuilderFlag.TF32)
    compiler._forbid_tf32(config)
    assert not config.get_flag(rtx.BuilderFlag.TF32)


def test_half_precision_halves_the_plan(compiler: Compiler, random_bundle: Bundle, tmp_path: Path) -> None:
    """Strongly typed: the graph's types are the plan's."""
    request = request_for(random_bundle, MASK_DECODER)
    sizes = {}
    for to in ("fp32", "bf16"):
        (tmp_path / to).mkdir()
        graph = cast(request.graph, to, tmp_path / to)  # type: ignore[arg-type]  # both are precisions
        sizes[to] = len(compiler.build(replace(request, graph=graph)).plan)
    assert sizes["bf16"] < 0.8 * sizes["fp32"]


def changed(request: BuildRequest, name: str, shapes: Range | None) -> BuildRequest:
    profile = dict(request.profile)
    if shapes is None:
        del profile[name]
    else:
        profile[name] = shapes
    return replace(request, profile=profile)


def test_a_profile_without_an_input_is_refused(compiler: Compiler, random_bundle: Bundle) -> None:
    request = changed(request_for(random_bundle, MASK_DECODER), "threshold", None)
    with pytest.raises(BuildError, match="graph and profile differ in threshold"):
        compiler.build(request)


def test_a_profile_whose_least_is_above_its_most_is_refused(compiler: Compiler, random_bundle: Bundle) -> None:
    request = changed(request_for(random_bundle, MASK_DECODER), "threshold", Range((4, 1), (4, 1), (1, 1)))
    with pytest.raises(BuildError, match=r"mask_decoder.onnx: the profile is not taken"):
        compiler.build(request)


def test_a_profile_of_other_sizes_is_refused(compiler: Compiler, random_bundle: Bundle) -> None:
    shapes = Range((1, 1, 8), (1, 1, 8), (8, 4, 8))
    request = changed(request_for(random_bundle, MASK_DECODER), "seg_features", shapes)
    with pytest.raises(BuildError, match=r"mask_decoder.onnx: .*seg_features"):
        compiler.build(request)


def test_an_architecture_that_cannot_compute_it_is_refused(compiler: Compiler, random_bundle: Bundle) -> None:
    request = replace(request_for(random_bundle, MASK_DECODER), capability="7.5")
    with pytest.raises(BuildError, match=r"mask_decoder.onnx: the build failed: .+"):
        compiler.build(request)


def test_an_architecture_that_it_does_not_know_is_refused(compiler: Compiler, random_bundle: Bundle) -> None:
    with pytest.raises(EngineUnavailableError, match=r"does not build for 9\.0"):
        compiler.build(replace(request_for(random_bundle, MASK_DECODER), capability="9.0"))


def test_a_workspace_that_is_too_small_is_refused_or_kept_to(compiler: Compiler, random_bundle: Bundle) -> None:
    request = replace(request_for(random_bundle, MASK_DECODER), workspace=1 << 10)
    with pytest.raises(BuildError, match=r"mask_decoder.onnx: the build failed: .+"):
        compiler.build(request)


@pytest.mark.parametrize(
    ("operator", "element", "shape"),
    [("Det", TensorProto.FLOAT, (3, 3)), ("Transpose", TensorProto.UINT8, (3, 3))],
)
def test_an_operator_that_it_does_not_have_is_named(
    compiler: Compiler, tmp_path: Path, operator: str, element: int, shape: tuple[int, ...]
) -> None:
    """Det, and Transpose on pixels: why the encoder casts them first."""
    taken = helper.make_tensor_value_info("x", element, shape)
    made = helper.make_tensor_value_info("y", element, None)
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "small", [taken], [made])
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    with pytest.raises(BuildError, match=operator):
        compiler.build(BuildRequest(path, {"x": Range(shape, shape, shape)}, ADA))


def test_what_is_no_graph_is_refused(compiler: Compiler, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(BuildError, match=r"broken.onnx: .+"):
        compiler.build(BuildRequest(tmp_path / "broken.onnx", {}, ADA))


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_no_plan_loads_without_a_gpu(compiler: Compiler, random_bundle: Bundle) -> None:
    """A whole one: the reason is the GPU, not the plan."""
    plan = compiler.build(request_for(random_bundle, MASK_DECODER)).plan
    assert compiler.load(plan) is None
    assert "CUDA" in compiler.complaints
