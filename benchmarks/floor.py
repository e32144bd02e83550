"""What a machine cannot do faster: a graph's multiplications, at the rate of the machine's own matrix product.

Knows the operators of an image encoder that multiply. Does not know runtimes.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import onnx

SIDE = 2048
"""Of the squares that are multiplied: 17 GFLOP, more than a cache holds."""


def product_rate(seconds: float = 2.0) -> float:
    """FLOP a second of a float32 matrix product by numpy on all threads that it takes, kept up for ``seconds``.

    Not the best of a few: a processor runs faster for some milliseconds than it can for the seconds of an encode.
    """
    left, right = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), np.float32)
    out, done, began = np.empty_like(left), 0, time.perf_counter()
    while time.perf_counter() - began < seconds or not done:
        np.matmul(left, right, out=out)
        done += 1
    return done * 2.0 * SIDE**3 / (time.perf_counter() - began)


def products(path: Path) -> float:
    """FLOP of an image encoder's MatMul, Gemm, Conv and Attention for one image; their shapes are inferred."""
    model = onnx.load(path, load_external_data=False)
    for value in model.graph.input:
        if not value.type.tensor_type.shape.dim[0].HasField("dim_value"):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {each.name: list(each.dims) for each in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [max(1, each.dim_value) for each in value.type.tensor_type.shape.dim]
    return sum(_flop(node, shapes) for node in graph.node)


def _flop(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> float:
    if node.op_type in {"MatMul", "Gemm"}:
        return 2.0 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Conv":
        return 2.0 * math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "Attention":
        query, _, value = (shapes[name] for name in node.input[:3])  # (1, heads, rows, width)
        # Queries and keys are wider by the positions folded into them, which no limit asks for.
        return 2.0 * math.prod(query[:3]) * value[2] * 2 * value[3]
    return 0.0
