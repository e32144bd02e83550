"""Torch modules to ONNX files with the names and open dimensions that serving expects.

Knows the exporter's settings, example inputs; ``exporters.onnx.fp16_storage`` halves weights. Does not know which
checkpoint a module came from. Every graph is of the default domain alone, computed in float32.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxscript.optimizer
import torch
from torch import Tensor, nn
from torch.export import Dim

from exporters.modules.sam_vit import SamViT
from exporters.onnx.files import save
from exporters.onnx.fp16_storage import Storage, store_halved
from exporters.onnx.graphs import ImageEncoderGraph, LanguageGraph, MaskDecoderGraph, VisionTowerGraph

OPSET = 20
ATTENTION_OPSET = 23
"""The first that has attention as one operator; of the graph that needs it."""
FOLDED_ELEMENTS = 4096
"""Constants are computed at export only up to this size: larger ones are cheaper to compute than to store."""


@dataclass(frozen=True, slots=True)
class Export:
    """One graph to be: its module, example inputs, tensor names, and open dimensions by input."""

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    open_dims: tuple[dict[int, Any], ...]
    """For each input, axis → dimension; equal dimensions are one object."""
    opset: int = OPSET


def image_encoder(module: ImageEncoderGraph) -> Export:
    side, batch = module.encoder.side, Dim("B", min=1, max=64)
    return Export(
        module,
        (torch.zeros(2, side, side, 3, dtype=torch.uint8), torch.full((2, 2), side, dtype=torch.int32)),
        ("image_u8", "valid_hw"),
        ("image_embeddings",),
        ({0: batch}, {0: batch}),
        ATTENTION_OPSET if isinstance(module.encoder, SamViT) else OPSET,
    )


def mask_decoder(module: MaskDecoderGraph, grid: int) -> Export:
    """``grid``: cells a side of an embedding."""
    batch, prompts = Dim("B", min=1, max=64), Dim("K", min=1, max=64)
    return Export(
        module,
        (torch.zeros(2, 256, grid, grid), torch.zeros(2, 3, 256), torch.zeros(2, 3)),
        ("image_embeddings", "seg_features", "threshold"),
        ("low_res_masks", "iou", "score", "corrected", "features"),
        ({0: batch}, {0: batch, 1: prompts}, {0: batch, 1: prompts}),
    )


def vision_tower(module: VisionTowerGraph) -> Export:
    side = module.tower.sizes.side
    return Export(
        module,
        (torch.zeros(2, 3, side, side),),
        ("pixels",),
        ("patch_tokens", "crop_token"),
        ({0: Dim("N", min=1, max=1024)},),
    )


def language_model(module: LanguageGraph) -> Export:
    sizes = module.language.sizes
    # Two tensors: one object given twice would become one input.
    keys, values = torch.zeros(2, sizes.layers, 1, sizes.kv_heads, 5, sizes.head_dim).unbind()
    read = Dim("P", min=0, max=1 << 20)
    ids = torch.tensor([[module.image_id, module.image_id, module.crop_id, module.bbox_id, 0, 0, 0]])
    return Export(
        module,
        (ids, torch.zeros(3, sizes.hidden), torch.zeros(2, 4), keys, values, torch.tensor([1, 3, 5, 6])),
        ("input_ids", "media_tokens", "boxes", "past_keys", "past_values", "feature_positions"),
        ("features", "logits", "present_keys", "present_values"),
        (
            {1: Dim("T", min=1, max=1 << 20)},
            {0: Dim("M", min=1, max=1 << 20)},
            {0: Dim("X", min=1, max=1 << 16)},
            {3: read},
            {3: read},
            {0: Dim("F", min=1, max=1 << 16)},
        ),
    )


def export(what: Export, path: Path, storage: Storage) -> None:
    """Write one graph, its large weights beside it (``exporters.onnx.files``)."""
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            what.module.eval(),
            what.example,
            dynamo=True,
            verbose=False,
            opset_version=what.opset,
            optimize=False,
            input_names=what.inputs,
            output_names=what.outputs,
            dynamic_shapes=what.open_dims,
        )
    if program is None:
        raise AssertionError("torch.onnx.export returns a program when it is given no file")
    onnxscript.optimizer.optimize(program.model, output_size_limit=FOLDED_ELEMENTS)
    if storage == "fp16":
        store_halved(program.model)
    save(program.model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of torchvision's absence and of its own deprecations: nothing to act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
