"""An image half's graph in float16 or bfloat16, cast from its float32 graph.

Knows which nodes must stay in float32, where Casts go, and what an embedding's element type is at the edge. Does
not know whether the result is close enough (``exporters.compare.drift``), files, or engines. Values keep their
names, so that a layer of the one graph is found in the other. A strongly typed engine computes in the types that
stand here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import onnx_ir as ir

Precision = Literal["fp32", "fp16", "bf16"]
Edge = Literal["float32", "float16"]

EMBEDDINGS = "image_embeddings"
HEADS = ("score", "corrected", "features")
"""The mask decoder's outputs that judge and corrector alone make."""

ELEMENTS: dict[Precision, ir.DataType] = {
    "fp32": ir.DataType.FLOAT,
    "fp16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
}
EDGES: dict[Edge, ir.DataType] = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}
BF16_OPSET = 22
"""The first whose Conv takes bfloat16. For the operators of these graphs, 21 to 23 changed types alone."""

_FLOAT_MAKERS = {"Constant", "ConstantOfShape", "EyeLike", "RandomNormal"}
"""Would hide a float32 value in an attribute. The exporter leaves none in these graphs."""


def cast(model: ir.Model, precision: Precision, edge: Edge) -> None:
    """Compute in ``precision``, give and take embeddings as ``edge``; in place.

    Stays float32: in the encoder, pixels up to the first convolution (their normalisation); in the decoder, judge
    and corrector, and the dense position code. Inputs and outputs other than embeddings keep their types.

    Args:
        model: as ``exporters.onnx.export`` wrote it, with either storage.
    """
    unstore(model)
    graph, element = model.graph, ELEMENTS[precision]
    casting = _Casting(graph)
    kept = _kept(graph)
    nodes = list(graph)
    for value in graph.inputs:
        if value.name == EMBEDDINGS:
            value.dtype = EDGES[edge]
    for node in nodes:
        casting.retype(node, ir.DataType.FLOAT if node in kept else element)
    for index, value in enumerate(graph.outputs):
        casting.emit(index, EDGES[edge] if value.name == EMBEDDINGS else ir.DataType.FLOAT)
    casting.drop_unused()
    if precision == "bf16":
        graph.opset_imports[""] = max(graph.opset_imports[""], BF16_OPSET)
    graph.sort()


def unstore(model: ir.Model) -> None:
    """Undo ``exporters.onnx.fp16_storage``: weights stored as float16 behind a Cast become float32 initialisers
    again."""
    graph = model.graph
    for node in list(graph):
        stored = node.inputs[0] if node.op_type == "Cast" else None
        if stored is None or stored.const_value is None or stored.dtype != ir.DataType.FLOAT16:
            continue
        full, name = node.outputs[0], node.outputs[0].name or ""
        whole = ir.Tensor(stored.const_value.numpy().astype("float32"), name=name)
        full.name = None
        restored = ir.Value(name=name, shape=full.shape, type=full.type, const_value=whole)
        full.replace_all_uses_with(restored)
        graph.remove(node, safe=True)
        del graph.initializers[stored.name or ""]
        graph.register_initializer(restored)


def _kept(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that compute in float32 whatever the precision."""
    outputs = {value.name: value for value in graph.outputs}
    if set(HEADS) <= outputs.keys():
        return _makers(outputs[name] for name in HEADS) | _made_of_constants(graph)
    first = next(node for node in graph if node.op_type == "Conv")
    return _makers([value for value in first.inputs[:1] if value is not None])


def _makers(values: Iterable[ir.Value]) -> set[ir.Node]:
    """Every node that takes part in computing ``values``."""
    found: set[ir.Node] = set()
    waiting = [node for value in values if (node := value.producer()) is not None]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.predecessors()
    return found


def _made_of_constants(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that no input reaches, the position code among them: an engine's builder computes them once."""
    found: set[ir.Node] = set()
    for node in graph:
        if all(v is None or v.const_value is not None or v.producer() in found for v in node.inputs):
            found.add(node)
    return found


class _Casting:
    """The Casts of one graph, made once for each value and type."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._floats = {value for value in _values(graph) if value.dtype == ir.DataType.FLOAT}

    def retype(self, node: ir.Node, element: ir.DataType) -> None:
        """Every float of the node in ``element``: inputs are cast where need be, outputs become so."""
        if node.op_type in _FLOAT_MAKERS:
            raise AssertionError(f"{node.op_type} is not expected in these graphs")
        for index, value in enumerate(node.inputs):
            if value is not None and value in self._floats and value.dtype != element:
                node.replace_input_with(index, self._cast(value, element))
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", element.value)
        for value in node.outputs:
            if value in self._floats:
                value.dtype = element

    def emit(self, index: int, element: ir.DataType) -> None:
        """Give the graph's output ``index`` as ``element``, under its own name."""
        value = self._graph.outputs[index]
        if value not in self._floats or value.dtype == element:
            return
        given = self._cast(value, element)
        value.name, given.name = f"{value.name}_computed", value.name
        self._graph.outputs[index] = given

    def drop_unused(self) -> None:
        """Weights of which only the cast form is read."""
        for value in list(self._graph.initializers.values()):
            if not value.uses() and not value.is_graph_output():
                del self._graph.initializers[value.name or ""]

    def _cast(self, value: ir.Value, element: ir.DataType) -> ir.Value:
        if (value, element) not in self._made:
            name = f"{value.name}_{element.name.lower()}"
            stored = value.const_value
            if stored is None:
                self._made[value, element] = self._cast_by_node(value, element, name)
            else:
                with np.errstate(over="ignore"):  # what overflows is infinite, and the comparison will find it
                    halved = ir.Tensor(stored.numpy().astype(element.numpy()), dtype=element, name=name)
                made = ir.Value(name=name, shape=value.shape, type=ir.TensorType(element), const_value=halved)
                self._graph.register_initializer(made)
                self._made[value, element] = made
        return self._made[value, element]

    def _cast_by_node(self, value: ir.Value, element: ir.DataType, name: str) -> ir.Value:
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", element.value)], name=f"{name}_cast")
        made = node.outputs[0]
        made.name, made.shape, made.type = name, value.shape, ir.TensorType(element)
        self._graph.append(node)
        return made


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
