"""A graph as files: one, or beside it one more that holds its weights when they would not fit a protobuf message.

Knows where the limit is and what the second file is called (``serving.bundle.EXTERNAL``). Does not know what a
graph computes or which manifest lists its files.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from serving.bundle import EXTERNAL

LARGEST = 1536 << 20
"""Bytes of initialisers that go into the graph's own file. A protobuf message holds less than 2 GiB."""


def save(model: ir.Model, path: Path) -> None:
    """Write ``path``, and ``path`` + ``.data`` beside it when initialisers take more than ``LARGEST`` bytes.

    A model that was read from two files may be saved as one, and the other way round.
    """
    weights = (value.const_value for value in model.graph.initializers.values())
    if sum(tensor.nbytes for tensor in weights if tensor is not None) > LARGEST:
        ir.save(model, path, external_data=path.name + EXTERNAL)
    else:
        ir.save(ir.external_data.load_to_model(model), path)
