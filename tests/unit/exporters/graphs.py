"""Walks through graphs, for the tests of casts."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir


def makers(model: ir.Model, names: Collection[str]) -> set[ir.Node]:
    """Every node that takes part in computing the outputs ``names``."""
    found: set[ir.Node] = set()
    waiting = [value.producer() for value in model.graph.outputs if value.name in names]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += node.predecessors()
    return found
