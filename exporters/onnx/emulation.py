"""A half-precision graph as a CPU can run it: each operator in float32, each result rounded to its type.

Knows where to round. It is what a GPU does that multiplies halves, sums in float32 and stores halves; what an
operator rounds within itself, it does not show. Needed because onnxruntime has no bfloat16 operators on a CPU, and
runs float16 graphs there with the values between operators left in float32, where nothing overflows.
Does not know what the graph is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from exporters.onnx.files import save

Array = npt.NDArray[Any]

HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


OPSET = 23
"""Of the emulation: float32 operators that onnxruntime has on a CPU."""


class Emulated:
    """A graph in any precision, runnable on a CPU."""

    def __init__(self, path: Path, threads: int, watched: Sequence[str] = ()) -> None:
        """``watched``: names of values inside that are wanted as well."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        options.enable_cpu_mem_arena = False  # gives memory back between operators
        model = ir.load(path)
        names = emulate(model, watched)
        self._names = [*(value.name or "" for value in model.graph.outputs[: -len(names) or None]), *watched]
        with TemporaryDirectory() as directory:
            save(model, Path(directory) / path.name)
            self._session = onnxruntime.InferenceSession(
                str(Path(directory) / path.name), options, providers=["CPUExecutionProvider"]
            )
        self._types = {value.name: value.dtype.numpy() for value in model.graph.inputs if value.dtype}

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs, then what is watched, by name. Feeds are cast to what the graph takes."""
        taken = {name: value.astype(self._types[name], copy=False) for name, value in feeds.items()}
        return dict(zip(self._names, self._session.run(None, taken), strict=True))


def emulate(model: ir.Model, watched: Sequence[str] = ()) -> list[str]:
    """Round after every operator; in place. Values keep their names.

    Args:
        watched: names of values that become outputs as well, in float32.

    Returns:
        The names of those outputs.
    """
    graph = model.graph
    rounding = _Rounding(graph)
    for node in list(graph):
        if node.op_type != "Cast":
            rounding.wrap(node)
    values = {value.name: value for node in graph for value in node.outputs}
    shown = [rounding.as_float(values[name]) for name in watched]
    graph.outputs.extend(shown)
    graph.opset_imports[""] = OPSET
    graph.sort()
    return [value.name or "" for value in shown]


class _Rounding:
    """The Casts round the operators of one graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._wide: dict[ir.Value, ir.Value] = {}

    def wrap(self, node: ir.Node) -> None:
        """Read halves as float32, compute, and round what was a half."""
        for index, value in enumerate(node.inputs):
            if value is not None:
                node.replace_input_with(index, self.as_float(value))
        for value in node.outputs:
            if value.dtype is not None and value.dtype in HALVES:
                self._round(value, value.dtype)

    def as_float(self, value: ir.Value) -> ir.Value:
        """A half as float32; anything else as it is."""
        if value.dtype not in HALVES:
            return value
        if value not in self._wide:
            self._wide[value] = self._cast(value, ir.DataType.FLOAT, f"{value.name}_wide")
        return self._wide[value]

    def _round(self, value: ir.Value, element: ir.DataType) -> None:
        name, users = value.name or "", list(value.uses())
        value.name, value.dtype = f"{name}_exact", ir.DataType.FLOAT
        rounded = self._cast(value, element, name)
        for user, index in users:
            user.replace_input_with(index, rounded)
        for index, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[index] = rounded

    def _cast(self, value: ir.Value, element: ir.DataType, name: str) -> ir.Value:
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", element.value)], name=f"{name}_cast")
        made = node.outputs[0]
        made.name, made.shape, made.type = name, value.shape, ir.TensorType(element)
        self._graph.append(node)
        return made
