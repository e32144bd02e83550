"""Where two graphs of one network part: the first layer whose values differ.

Knows which values are compared, and what the exporter noted of their place in the network. Both graphs name them
alike (``exporters.onnx.half_precision``). Does not know what either graph is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporters.onnx.emulation import Array, Emulated

DRIFTED = 0.05
"""A layer has drifted when the difference is this share of its values (root mean squares)."""
_OPERATORS = frozenset({"Attention", "Conv", "MatMul", "LayerNormalization", "Gelu", "Relu"})
_MOST_ELEMENTS = 1 << 24
"""Larger values (a ViT's attention weights at 1024) are not compared: all of them are held at once."""


@dataclass(frozen=True, slots=True)
class DriftedLayer:
    graph: str
    value: str
    operator: str
    module: str
    """Its place in the network, as the state dict names it; empty where the exporter noted none."""
    drift: float
    """Difference in proportion to its values; infinite where a value is not finite."""


def first_drifted(expected: Path, actual: Path, feeds: Mapping[str, Array], threads: int) -> DriftedLayer | None:
    """The first value, in the order of ``expected``, that differs by more than ``DRIFTED``."""
    watched = _watched(expected)
    full = Emulated(expected, threads, list(watched))(feeds)
    variant = Emulated(actual, threads, list(watched))(feeds)
    for name, node in watched.items():
        drift = _drift(full[name], variant[name])
        if drift > DRIFTED:
            return DriftedLayer(expected.name, name, node.op_type, _module(node), drift)
    return None


def _watched(path: Path) -> dict[str, ir.Node]:
    found = {}
    for node in ir.load(path).graph:
        value = node.outputs[0]
        elements = math.prod(length for length in value.shape or () if isinstance(length, int))
        if node.op_type in _OPERATORS and elements <= _MOST_ELEMENTS and not value.is_graph_output():
            found[value.name or ""] = node
    return found


def _module(node: ir.Node) -> str:
    """From ``['', 'encoder', 'encoder.blocks.0', 'layer_norm']``: modules from outside in, then the operation."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
    modules = [scope.strip(" '\"") for scope in scopes.strip("[]").split(",")][:-1]
    return modules[-1] if modules else ""


def _drift(expected: Array, actual: Array) -> float:
    if not np.isfinite(actual).all():
        return math.inf
    difference, size = (
        float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (actual - expected, expected)
    )
    return difference / max(size, float(np.finfo(np.float32).tiny))
