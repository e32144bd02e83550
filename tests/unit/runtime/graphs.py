"""Hand-made ONNX graphs, small or slow, for what engines do around a graph."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.runtime.graph import Interface, TensorSpec

WIDTH = 256

ROWS = Interface(
    inputs=(TensorSpec("x", "float32", (None, WIDTH)),), outputs=(TensorSpec("y", "float32", (None, WIDTH)),)
)


def products(path: Path, count: int, matrix: np.ndarray | None = None, depth: tuple[int, ...] = ()) -> Path:
    """y = x · matrix · matrix …, ``count`` times; x and y (rows, *depth, WIDTH); the identity by default."""
    weight = np.eye(WIDTH, dtype=np.float32) if matrix is None else matrix
    names = ["x", *(f"x{step}" for step in range(1, count)), "y"]
    nodes = [helper.make_node("MatMul", [before, "w"], [after]) for before, after in pairwise(names)]
    shape = ["rows", *depth, WIDTH]
    return _save(path, nodes, [("x", shape)], [("y", shape)], {"w": weight})


def gather(path: Path) -> Path:
    """y = rows of x at ``at``: fails in the middle of a run when ``at`` is out of range."""
    nodes = [helper.make_node("Gather", ["x", "at"], ["y"])]
    return _save(path, nodes, [("x", ["rows", WIDTH]), ("at", ["picks"])], [("y", ["picks", WIDTH])], {})


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, list[str | int]]],
    outputs: Sequence[tuple[str, list[str | int]]],
    weights: dict[str, np.ndarray],
) -> Path:
    def value(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
        element = TensorProto.INT64 if name == "at" else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, element, shape)

    graph = helper.make_graph(
        list(nodes),
        "made",
        [value(*each) for each in inputs],
        [value(*each) for each in outputs],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path
