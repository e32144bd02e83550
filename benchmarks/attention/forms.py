"""One random ViT-B image encoder as three graphs, which differ in how attention takes in relative positions.

Knows the forms that the exporters do not write. Every form has the same weights and the same result. Does not know
what runs a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn

from exporters.checkpoint.random import SIZES
from exporters.modules.sam_vit import Attention, SamViT
from exporters.onnx import export, half_precision
from exporters.onnx.files import save
from exporters.onnx.graphs import ImageEncoderGraph


class Added(Attention):
    """What SAM's code does: positions' shares are added to an array of all weights."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        by_row, by_column = self.by_distance(q)
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights = weights.unflatten(-1, self.ones.shape).unflatten(2, self.ones.shape)
        weights = weights + by_row.unsqueeze(-1) + by_column.unsqueeze(-2)
        return torch.softmax(weights.flatten(4).flatten(2, 3), dim=-1) @ v


class Product(Attention):
    """Folded into the product, which two matrix products and a softmax compute."""

    def fused(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return torch.softmax(queries @ keys.transpose(-1, -2), dim=-1) @ values


SEED = 1
FORMS: Mapping[str, type[Attention]] = {"added": Added, "product": Product, "fused": Attention}
"""The last is the exporters' own."""


def write_form(form: str, out: Path) -> None:
    """``out`` becomes the graph of the same encoder every time, in one form."""
    torch.manual_seed(SEED)
    sizes = SIZES["vit_b"].image
    encoder = SamViT(sizes)
    for block, size in zip(encoder.blocks, sizes.blocks, strict=True):
        block.attn = FORMS[form](size)
    torch.manual_seed(SEED)
    for name, parameter in encoder.named_parameters():
        if "pos" in name:  # zero as initialised, which would hide a mistake in them
            nn.init.normal_(parameter, std=0.02)
    export.export(export.image_encoder(ImageEncoderGraph(encoder)), out, "fp32")


def write_half(graph: Path, out: Path) -> None:
    """``out`` becomes ``graph`` in float16, embeddings in float32."""
    model = ir.load(graph)
    half_precision.cast(model, "fp16", "float32")
    save(model, out)
