"""Normalisation over channels.

Knows the two norms that torch has no exportable single operation for in the layout needed here.
Does not know the networks that use them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of [B, C, H, W]; SAM's epsilon.

    Written as one LayerNormalization between two permutes: half-precision TensorRT builds warn of
    overflow when mean and variance are separate operations.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, Mistral's form: no mean, no bias."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
