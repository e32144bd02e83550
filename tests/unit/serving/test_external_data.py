"""Every file that a graph refers to is found in its bytes, wherever in the graph the tensor stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.external_data import MalformedGraph, locations


def elsewhere(location: str, name: str = "t") -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def constant(location: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=elsewhere(location))


def model() -> onnx.ModelProto:
    """One tensor in every kind of place that ONNX has for one."""
    branch = helper.make_graph([constant("branch")], "then", [], [], [elsewhere("deep")])
    sparse = onnx.SparseTensorProto(values=elsewhere("values"), indices=elsewhere("indices"), dims=[4])
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Listed", [], ["z"], tensors=[elsewhere("listed")]),
        helper.make_node("Sparse", [], ["s"], sparse=sparse),
        constant("attribute"),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [elsewhere("initialiser"), numpy_helper.from_array(np.ones(9))])
    graph.sparse_initializer.append(sparse)
    function = helper.make_function("d", "f", [], ["c"], [constant("function")], [])
    made = helper.make_model(graph, functions=[function])
    made.training_info.add(initialization=helper.make_graph([], "t", [], [], [elsewhere("training")]))
    return made


def test_all_of_them_are_found(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(model().SerializeToString())
    assert locations(tmp_path / "g") == {
        "branch", "deep", "values", "indices", "listed", "attribute", "initialiser", "function", "training",
    }  # fmt: skip


def test_a_graph_that_holds_all_its_tensors_refers_to_none(tmp_path: Path) -> None:
    graph = helper.make_graph([], "location", [], [], [numpy_helper.from_array(np.ones(9), "location")])
    (tmp_path / "g").write_bytes(helper.make_model(graph).SerializeToString())
    assert locations(tmp_path / "g") == frozenset()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_half_a_graph_is_malformed(tmp_path: Path, cut: int) -> None:
    """In the outer message; a cut is no end of a field there."""
    whole = onnx.ModelProto(graph=helper.make_graph([constant("c")], "g", [], [])).SerializeToString()
    (tmp_path / "g").write_bytes(whole[:-cut])
    with pytest.raises(MalformedGraph):
        locations(tmp_path / "g")


@pytest.mark.parametrize(
    "junk", [b"mask_decoder.onnx", b"\x00\x01", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
)
def test_what_is_no_message_is_malformed(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "g").write_bytes(junk)
    with pytest.raises(MalformedGraph):
        locations(tmp_path / "g")


def test_nesting_without_end_is_malformed(tmp_path: Path) -> None:
    def wrapped(field: int, inner: bytes) -> bytes:
        length, number = len(inner), bytearray()
        while length > 127:
            number.append(length & 127 | 128)
            length >>= 7
        return bytes([field << 3 | 2, *number, length]) + inner

    message = b""
    for _ in range(200):
        message = wrapped(1, wrapped(5, wrapped(6, message)))
    (tmp_path / "g").write_bytes(wrapped(7, message))
    with pytest.raises(MalformedGraph, match="nested deeper"):
        locations(tmp_path / "g")
