"""The vision tower: CLIP's image transformer and the projector into the language model's width.

Knows CLIP's state-dict names (``vision_model.*``) and the projector's (``mm_projector.{0,2}``). Does not
know image files, resizing, or which token is an image and which a crop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["quick_gelu", "gelu"]


@dataclass(frozen=True, slots=True)
class TowerSizes:
    """The tower's sizes, as its ``config.json`` states them."""

    side: int
    patch: int
    width: int
    layers: int
    heads: int
    hidden: int
    activation: Activation
    epsilon: float
    select_layer: int = -2
    """Which hidden state is read: -1 is the last layer's output, -2 the one before."""

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        return (self.side // self.patch) ** 2


class Embeddings(nn.Module):
    """Pixels [N, 3, side, side] → class token and patches with positions [N, 1 + n, C]."""

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(sizes.width) * 0.02)
        self.patch_embedding = nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch, bias=False)
        self.position_embedding = nn.Embedding(1 + sizes.tokens, sizes.width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(pixels.shape[0], 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] → the same."""
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1)
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # nn.Module.__call__


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = x * torch.sigmoid(1.702 * x) if self.activation == "quick_gelu" else F.gelu(x)
        return self.fc2(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class Layer(nn.Module):
    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.self_attn = SelfAttention(sizes.width, sizes.heads)
        self.layer_norm1 = nn.LayerNorm(sizes.width, sizes.epsilon)
        self.mlp = MLP(sizes.width, sizes.hidden, sizes.activation)
        self.layer_norm2 = nn.LayerNorm(sizes.width, sizes.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class Encoder(nn.Module):
    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))


class VisionModel(nn.Module):
    """CLIP's transformer, read at one hidden layer; the final norm is held but never reached."""

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        # Hidden states are counted from the embeddings (0) to the last layer's output (layers).
        self.depth = sizes.select_layer % (sizes.layers + 1)
        self.embeddings = Embeddings(sizes)
        self.pre_layrnorm = nn.LayerNorm(sizes.width, sizes.epsilon)  # spelled as published
        self.encoder = Encoder(sizes)
        self.post_layernorm = nn.LayerNorm(sizes.width, sizes.epsilon)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3, side, side] → [N, 1 + n, C]."""
        x = self.pre_layrnorm(self.embeddings(pixels))
        for layer in self.encoder.layers[: self.depth]:
            x = layer(x)
        return x  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def projector(inputs: int, hidden: int) -> nn.Sequential:
    """The published ``mlp2x_gelu``: tower width → language width."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden))


class VisionTower(nn.Module):
    """Tower and projector: an image becomes patch tokens, a reference crop one token."""

    def __init__(self, sizes: TowerSizes, hidden: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.vision_model = VisionModel(sizes)
        self.mm_projector = projector(sizes.width, hidden)

    @classmethod
    def of(cls, sizes: TowerSizes, state: Mapping[str, Tensor]) -> VisionTower:
        """The tower of a state dict (names as in this class), loaded strictly, in ``eval()``."""
        model = cls(sizes, state["mm_projector.2.weight"].shape[0])
        model.load_state_dict(dict(state), strict=True)
        return model.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels [N, 3, side, side] → patch tokens [N, n, H] and crop token [N, H]."""
        tokens = self.mm_projector(self.vision_model(pixels))
        return tokens[:, 1:], tokens[:, 0]
