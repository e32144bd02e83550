"""Attention in the forms that TensorRT takes.

Knows what ONNX's operator allows and TensorRT's does not: values narrower than keys ("Key and Value must have the
same shape"), as in the image encoder, whose keys carry positions, and float32, for which there is no kernel. In
half precision values get zeros, which are cut off again, and attention stays one kernel; in float32 it becomes
products. Does not know which graphs have attention.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporters.onnx.files import save


def taken_form(graph: Path, directory: Path) -> Path:
    """The graph's own path, or of the form that TensorRT takes, written into ``directory`` under the same name."""
    model = ir.load(graph)
    if not adapt(model):
        return graph
    save(model, directory / graph.name)
    return directory / graph.name


def adapt(model: ir.Model) -> bool:
    """Put every attention into the form that TensorRT takes; in place. Returns whether there was any."""
    attention = [node for node in model.graph if node.op_type == "Attention"]
    for node in attention:
        tape = ir.tape.Tape()
        query, key, value = node.inputs  # a mask would be one more
        if query is None or key is None or value is None or node.attributes["scale"].as_float() != 1:
            raise AssertionError("the image encoder scales its queries itself")
        mixed = (_products if query.dtype == ir.DataType.FLOAT else _widened)(tape, query, key, value)
        for constant in tape.initializers:
            model.graph.register_initializer(constant)
        old = node.outputs[0]
        mixed.shape, mixed.type = old.shape, old.type
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], tape.nodes, [old], [mixed])
    return bool(attention)


def _products(tape: ir.tape.Tape, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Value:
    turned = tape.op("Transpose", [key], {"perm": [0, 1, 3, 2]})
    weights = tape.op("Softmax", [tape.op("MatMul", [query, turned])], {"axis": -1})
    return tape.op("MatMul", [weights, value])


def _widened(tape: ir.tape.Tape, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Value:
    width, missing = _width(value), _width(key) - _width(value)

    def constant(*content: int) -> ir.Value:
        name = f"{value.name}_wide_{len(tape.initializers)}"
        return tape.initializer(ir.Tensor(np.array(content, np.int64), name=name))

    wide = tape.op("Pad", [value, constant(0, 0, 0, 0, 0, 0, 0, missing)])
    wide.shape, wide.type = key.shape, value.type
    mixed = tape.op("Attention", [query, key, wide], {"scale": 1.0})
    return tape.op("Slice", [mixed, constant(0), constant(width), constant(3)])


def _width(value: ir.Value) -> int:
    if value.shape is None or not isinstance(length := value.shape[-1], int):
        raise AssertionError("the exporter notes the width of every query, key and value")
    return length
