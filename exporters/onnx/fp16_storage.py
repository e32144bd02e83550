"""Weights as float16 in the file, float32 in every computation.

Knows which initialisers lose nothing by it and how to put a Cast behind them. Does not know what a graph
computes; a runtime folds the Casts when it loads the graph.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

Storage = Literal["fp32", "fp16"]

FEWEST_ELEMENTS = 1024
"""Smaller initialisers stay float32: a Cast node costs more than they do."""


def store_halved(model: ir.Model) -> None:
    """Replace every large float32 initialiser whose values are all float16 values by those and a Cast."""
    graph = model.graph
    casts = []
    for value in list(graph.initializers.values()):
        if (halved := _halved(value)) is None:
            continue
        stored = ir.Value(
            name=f"{value.name}_fp16",
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
            const_value=ir.Tensor(halved, name=f"{value.name}_fp16"),
        )
        to_float = ir.AttrInt64("to", ir.DataType.FLOAT.value)
        cast = ir.Node("", "Cast", [stored], [to_float], name=f"{value.name}_cast")
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[value.name or ""]
        cast.outputs[0].name = value.name
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, value.type
        graph.register_initializer(stored)
        casts.append(cast)
    if casts:
        graph.insert_before(graph[0], casts)


def _halved(value: ir.Value) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]] | None:
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < FEWEST_ELEMENTS:
        return None
    full = tensor.numpy()
    with np.errstate(over="ignore"):
        halved = full.astype(np.float16)
    return halved if np.array_equal(halved.astype(np.float32), full) else None
