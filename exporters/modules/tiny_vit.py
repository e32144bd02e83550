"""LiteMedSAM's image encoder: a TinyViT that keeps 64x64 cells, and SAM's neck.

Knows the state-dict names of the LiteMedSAM checkpoint (without the leading ``image_encoder.``); widths,
depths, heads and windows are read from the tensors' shapes. Does not know pixels' range or padding.
``features`` stops before the neck, for training that tunes the neck alone. Meant to stay in ``eval()``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.modules.norm import LayerNorm2d

MERGED_CELLS = 64
"""The encoder halves its grid between stages until it has this many cells a side."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: ``window`` 0 means convolutions instead of attention."""

    width: int
    depth: int
    heads: int
    window: int
    hidden: int
    """Width inside a block's MLP or convolutions."""


def stages_of(state: Mapping[str, Tensor]) -> tuple[Stage, ...]:
    """The stages of an image encoder's state dict, from its shapes."""
    stages: list[Stage] = []
    while f"layers.{len(stages)}.blocks.0.{'local_conv' if stages else 'conv1'}.c.weight" in state:
        prefix = f"layers.{len(stages)}.blocks."
        depth = 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in state if key.startswith(prefix))
        if not stages:
            hidden, width = state[prefix + "0.conv1.c.weight"].shape[:2]
            stages.append(Stage(width, depth, 0, 0, hidden))
        else:
            heads, offsets = state[prefix + "0.attn.attention_biases"].shape
            hidden, width = state[prefix + "0.mlp.fc1.weight"].shape
            stages.append(Stage(width, depth, heads, math.isqrt(offsets), hidden))
    return tuple(stages)


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm, named ``c`` and ``bn``."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class ConvBlock(nn.Module):
    """Widen, depthwise 3x3, narrow, residual. [B, C, H, W] → the same."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class Downsample(nn.Module):
    """To the next stage's width, and to half the grid unless that is already small enough."""

    def __init__(self, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, outputs)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))  # type: ignore[no-any-return]  # nn.Module.__call__


class WindowAttention(nn.Module):
    """Attention within one window, with a learned bias for each head and each (|dy|, |dx|)."""

    offsets: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        steps = torch.arange(window)
        self.register_buffer("offsets", (steps[:, None] - steps).abs(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[windows, N, C] → the same; N = window squared."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + self.bias()
        mixed = (torch.softmax(weights, dim=-1) @ v).transpose(1, 2).flatten(2)
        return self.proj(mixed)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def bias(self) -> Tensor:
        """[heads, N, N], looked up axis by axis so that a graph stores the small table alone."""
        side = self.window
        table = self.attention_biases.view(self.heads, side, side)
        rows = table.index_select(1, self.offsets.flatten())  # [heads, y y', |dx|]
        grid = rows.index_select(2, self.offsets.flatten()).view(self.heads, side, side, side, side)
        return grid.transpose(2, 3).reshape(self.heads, side * side, side * side)


class BlockMLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))  # type: ignore[no-any-return]  # nn.Module.__call__


class AttentionBlock(nn.Module):
    """Window attention, depthwise 3x3, MLP. [B, H, W, C] → the same."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.window = stage.window
        self.attn = WindowAttention(stage.width, stage.heads, stage.window)
        self.local_conv = ConvNorm(stage.width, stage.width, 3, groups=stage.width)
        self.mlp = BlockMLP(stage.width, stage.hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(x)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mlp(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def _attend(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        side = self.window
        down, right = -height % side, -width % side
        x = F.pad(x, (0, 0, 0, right, 0, down))
        rows, columns = (height + down) // side, (width + right) // side
        x = x.view(batch, rows, side, columns, side, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, side * side, channels))
        x = x.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        return x.reshape(batch, rows * side, columns * side, channels)[:, :height, :width]


class ConvStage(nn.Module):
    """[B, C, H, W] → [B, C', H / stride, W / stride]."""

    def __init__(self, stage: Stage, downsample: Downsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvBlock(stage.width, stage.hidden) for _ in range(stage.depth))
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class AttentionStage(nn.Module):
    """[B, C, H, W] → [B, C', H / stride, W / stride]."""

    def __init__(self, stage: Stage, downsample: Downsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(AttentionBlock(stage) for _ in range(stage.depth))
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        x = x.permute(0, 3, 1, 2)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Pixel by pixel: two 1x1 convolutions, no shrinking."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, width // 2), nn.GELU(), ConvNorm(width // 2, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class TinyViT(nn.Module):
    """Pixels in 0..1 [B, 3, 256, 256] → embedding [B, 256, 64, 64]."""

    side = 256
    grid = MERGED_CELLS

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(stages[0].width)
        self.layers = nn.ModuleList()
        cells = self.side
        for stage, following in zip(stages, (*stages[1:], None), strict=True):
            downsample = None
            if following is not None:
                stride = 2 if cells > MERGED_CELLS else 1
                downsample = Downsample(stage.width, following.width, stride)
                cells //= stride
            build = AttentionStage if stage.window else ConvStage
            self.layers.append(build(stage, downsample))
        self.neck = nn.Sequential(
            nn.Conv2d(stages[-1].width, 256, 1, bias=False),
            LayerNorm2d(256),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            LayerNorm2d(256),
        )

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> TinyViT:
        """The network of a state dict (names as in this class), loaded strictly, in ``eval()``."""
        model = cls(stages_of(state))
        model.load_state_dict(dict(state), strict=True)
        return model.eval()

    def features(self, x: Tensor) -> Tensor:
        """Pixels [B, 3, 256, 256] → what the neck sees, [B, 320, 64, 64] in the published sizes."""
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.features(x))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
