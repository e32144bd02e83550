"""The committed model repository: what it says, that it is written from its source, and that Triton takes it."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from exporters.__main__ import main
from exporters.errors import SourceError
from exporters.repository import Limits, published, read_limits
from serving.bundle import Bundle
from tests.conftest import REPOSITORY

COMMITTED = REPOSITORY / "model_repository"
CONFIGS = sorted(path.relative_to(COMMITTED).as_posix() for path in COMMITTED.rglob("*.pbtxt"))
MODELS = ("image_encoder", "mask_decoder")
TYPES = {
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
}


def config_of(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_it_is_what_its_source_writes() -> None:
    assert {name: (COMMITTED / name).read_text() for name in CONFIGS} == published()


@pytest.mark.parametrize("model", MODELS)
def test_production_runs_plans_wherever_triton_puts_them(model: str) -> None:
    config = config_of(COMMITTED / model / "config.pbtxt")
    assert (config.name, config.platform) == (model, "tensorrt_plan")
    assert config.default_model_filename == "model.plan"
    assert config.cc_model_filenames["9.0"] == "model_sm90.plan"
    assert not config.instance_group
    assert config.model_warmup
    queue = config.dynamic_batching
    assert queue.priority_levels == 2
    for policy in (queue.default_queue_policy, queue.priority_queue_policy[2]):
        assert 0 < policy.max_queue_size <= 256
        assert policy.default_timeout_microseconds > 0


@pytest.mark.parametrize("model", MODELS)
def test_the_golden_models_graphs_have_its_tensors(model: str, golden_bundle: Bundle) -> None:
    """The golden checkpoint has the published sizes; its graphs are exported by the code that exports any."""
    config = config_of(COMMITTED / model / "config.pbtxt")
    graph = onnx.load(golden_bundle.path(f"{model}.onnx")).graph
    said = {t.name: (model_config_pb2.DataType.Name(t.data_type), list(t.dims)) for t in config.input}
    said |= {t.name: (model_config_pb2.DataType.Name(t.data_type), list(t.dims)) for t in config.output}
    found = {}
    for node in (*graph.input, *graph.output):
        tensor = node.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        assert dims[0] == -1  # the batch
        found[node.name] = (TYPES[tensor.elem_type], dims[1:])
    assert said == found


def test_its_limits_can_be_read(tmp_path: Path) -> None:
    assert read_limits(COMMITTED / "image_encoder" / "config.pbtxt") == Limits(4, None)
    assert read_limits(COMMITTED / "mask_decoder" / "config.pbtxt") == Limits(16, 8)
    with pytest.raises(SourceError, match="exporters repository"):
        read_limits(tmp_path / "config.pbtxt")


def test_the_golden_bundles_repository_is_the_committed_one_with_digests(
    golden_bundle: Bundle, tmp_path: Path
) -> None:
    assert main(["repository", "--bundle", str(golden_bundle.directory), "--out", str(tmp_path)]) == 0
    for name in CONFIGS:
        written = (tmp_path / name).read_text()
        without = re.sub(r"# SHA-256 of the graph.*\nparameters \{ key: \"graph_sha256\".*\n", "", written)
        assert without == (COMMITTED / name).read_text()
        assert without != written
    for model in MODELS:
        placed = tmp_path / model / "1" / "model.onnx"
        assert placed.read_bytes() == golden_bundle.path(f"{model}.onnx").read_bytes()
