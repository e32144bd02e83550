"""The committed configurations fit graphs of the published sizes, and are read however they are laid out.

Random weights will do.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from exporters.errors import SourceError
from exporters.triton_repository import BatchLimits, published, read_digest, read_limits, write_repository
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


DIGEST = "0123456789abcdef" * 4
CONFIG = f"""\
name: "mask_decoder"
max_batch_size: 16
input {{ name: "seg_features" data_type: TYPE_FP32 dims: [ -1, 256 ] }}
parameters {{ key: "max_prompts" value {{ string_value: "8" }} }}
parameters {{ key: "graph_sha256" value {{ string_value: "{DIGEST}" }} }}
"""
LAYOUTS = {
    "as it is written": CONFIG,
    "in one line": " ".join(CONFIG.split()),
    "spread out": re.sub(r"([{}:])", r" \1\n\t", CONFIG),
    "with comments": re.sub("^", "# max_batch_size: 99, max_prompts: 99\n", CONFIG, flags=re.MULTILINE),
    "with other quotes, colons and separators": CONFIG.replace('"', "'").replace(" {", ": {").replace(" }", " };"),
    "parameters first": "".join(reversed(CONFIG.splitlines(keepends=True))),
    "as protobuf prints it": text_format.MessageToString(
        text_format.Parse(CONFIG, model_config_pb2.ModelConfig())
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_reads_the_same_however_it_is_laid_out(layout: str, tmp_path: Path) -> None:
    config = tmp_path / "config.pbtxt"
    config.write_text(LAYOUTS[layout])
    assert (layout == "as it is written") == (LAYOUTS[layout] == CONFIG)
    assert read_limits(config) == BatchLimits(16, 8)
    assert read_digest(config) == DIGEST


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no max_batch_size"),
        ("# max_batch_size: 16", "no max_batch_size"),
        ("max_batch_size: 16 max_prompts: 8", "max_prompts"),
        ("max_batch_size: sixteen", "sixteen"),
        (CONFIG.replace('"8"', '"eight"'), "max_prompts must be a number"),
        (CONFIG.replace(DIGEST, DIGEST[1:]), "no graph_sha256"),
        ("max_batch_size: 16", "no graph_sha256"),
    ],
)
def test_what_is_no_configuration_of_ours_is_refused(text: str, words: str, tmp_path: Path) -> None:
    config = tmp_path / "config.pbtxt"
    config.write_text(text)
    with pytest.raises(SourceError, match=words) as caught:
        read_limits(config)
        read_digest(config)
    assert "exporters repository" in str(caught.value)
