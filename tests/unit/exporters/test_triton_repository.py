"""The committed configurations fit graphs of the published sizes; random weights will do."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from exporters.triton_repository import published, write_repository
from serving.bundle import Bundle
from tests.conftest import REPOSITORY

COMMITTED = REPOSITORY / "model_repository"
MODELS = ("image_encoder", "mask_decoder")
TYPES = {
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
}
Tensors = dict[str, tuple[str, list[int]]]


@pytest.mark.parametrize("name", ["config.pbtxt", "configs/cpu.pbtxt"])
@pytest.mark.parametrize("model", MODELS)
def test_a_configuration_names_the_graphs_tensors(model: str, name: str, vit_b_bundle: Bundle) -> None:
    text = (COMMITTED / model / name).read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    said = {t.name: (model_config_pb2.DataType.Name(t.data_type), list(t.dims)) for t in config.input}
    said |= {t.name: (model_config_pb2.DataType.Name(t.data_type), list(t.dims)) for t in config.output}
    assert said == tensors(vit_b_bundle.path(f"{model}.onnx"))


def tensors(graph: Path) -> Tensors:
    """Of inputs and outputs, by name, without the batch; -1 for a length that is open."""
    loaded = onnx.load(graph).graph
    found: Tensors = {}
    for value in (*loaded.input, *loaded.output):
        tensor = value.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        assert dims[0] == -1, "the batch is open"
        found[value.name] = (TYPES[tensor.elem_type], dims[1:])
    return found


def test_a_bundles_repository_is_the_committed_one_with_digests(vit_b_bundle: Bundle, tmp_path: Path) -> None:
    write_repository(vit_b_bundle, tmp_path)
    for name, committed in published().items():
        written = (tmp_path / name).read_text()
        without = re.sub(r"# SHA-256 of the graph.*\nparameters \{ key: \"graph_sha256\".*\n", "", written)
        assert without == committed
        assert without != written
    for model in MODELS:
        graph = f"{model}.onnx"
        assert vit_b_bundle.manifest.files[graph] in (tmp_path / model / "config.pbtxt").read_text()
        assert (tmp_path / model / "1" / "model.onnx").stat().st_size == vit_b_bundle.path(graph).stat().st_size
