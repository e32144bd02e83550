"""The language half: a Mistral decoder, the box encoder and the projection of [SEG] features.

Knows the published state-dict names (``model.layers.N…``, ``lm_head``, ``model.bbox_encoder``,
``model.text_hidden_fcs``) and explicit key/value caches. Does not know text, the tokenizer, or where image
and crop tokens come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.modules.heads import FEATURE
from exporters.modules.norm import RMSNorm


@dataclass(frozen=True, slots=True)
class LanguageSizes:
    """The decoder's sizes, as its ``config.json`` states them; ``vocabulary`` counts the added tokens."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    rope_theta: float
    epsilon: float


class Rotary(nn.Module):
    """Rotary positions: angles of absolute positions, applied to the two halves of a head."""

    frequencies: Tensor

    def __init__(self, sizes: LanguageSizes) -> None:
        super().__init__()
        steps = torch.arange(0, sizes.head_dim, 2, dtype=torch.float32) / sizes.head_dim
        self.register_buffer("frequencies", 1.0 / sizes.rope_theta**steps, persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [T] → cosines and sines [T, head_dim]."""
        angles = positions.to(self.frequencies.dtype)[:, None] * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return torch.cos(angles), torch.sin(angles)


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """[..., T, head_dim] → the same."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tokens of one call stand: the same in every layer."""

    cosines: Tensor
    sines: Tensor
    """[T, head_dim]."""
    mask: Tensor
    """[T, P + T]: 0 where a token may look, -inf where it may not."""


class SelfAttention(nn.Module):
    """Grouped-query attention: each key/value head serves ``heads / kv_heads`` query heads."""

    def __init__(self, sizes: LanguageSizes) -> None:
        super().__init__()
        self.head_dim, self.kv_heads = sizes.head_dim, sizes.kv_heads
        self.groups = sizes.heads // sizes.kv_heads
        self.q_proj = nn.Linear(sizes.hidden, sizes.heads * sizes.head_dim, bias=False)
        self.k_proj = nn.Linear(sizes.hidden, sizes.kv_heads * sizes.head_dim, bias=False)
        self.v_proj = nn.Linear(sizes.hidden, sizes.kv_heads * sizes.head_dim, bias=False)
        self.o_proj = nn.Linear(sizes.heads * sizes.head_dim, sizes.hidden, bias=False)

    def forward(self, x: Tensor, place: Place, past: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, H], past keys and values [B, kv_heads, P, d] → x and both extended to P + T."""
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.kv_heads, self.groups, self.head_dim)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        q = _rotated(q.permute(0, 2, 3, 1, 4) * self.head_dim**-0.5, place.cosines, place.sines)
        keys = torch.cat([past[0], _rotated(k, place.cosines, place.sines)], dim=2)
        values = torch.cat([past[1], v], dim=2)
        # The query heads of a group stand side by side as rows, so keys and values are never repeated.
        rows = (self.groups, length)
        weights = torch.unflatten(q.flatten(2, 3) @ keys.transpose(-1, -2), 2, rows) + place.mask
        mixed = torch.unflatten(torch.softmax(weights, dim=-1).flatten(2, 3) @ values, 2, rows)
        joined = mixed.permute(0, 3, 1, 2, 4).flatten(2)
        return self.o_proj(joined), keys, values


class MLP(nn.Module):
    def __init__(self, sizes: LanguageSizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
        self.up_proj = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
        self.down_proj = nn.Linear(sizes.intermediate, sizes.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]  # nn.Module.__call__


class Layer(nn.Module):
    def __init__(self, sizes: LanguageSizes) -> None:
        super().__init__()
        self.self_attn = SelfAttention(sizes)
        self.mlp = MLP(sizes)
        self.input_layernorm = RMSNorm(sizes.hidden, sizes.epsilon)
        self.post_attention_layernorm = RMSNorm(sizes.hidden, sizes.epsilon)

    def forward(self, x: Tensor, place: Place, past: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        attended, keys, values = self.self_attn(self.input_layernorm(x), place, past)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), keys, values


class Decoder(nn.Module):
    """Published under ``model.``: the decoder, and MediRound's own layers beside it."""

    def __init__(self, sizes: LanguageSizes) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.hidden)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm = RMSNorm(sizes.hidden, sizes.epsilon)
        self.bbox_encoder = nn.Linear(4, sizes.hidden)
        self.text_hidden_fcs = nn.ModuleList(
            [nn.Sequential(nn.Linear(sizes.hidden, sizes.hidden), nn.ReLU(), nn.Linear(sizes.hidden, FEATURE))]
        )


class LanguageModel(nn.Module):
    """Embedded tokens in, hidden states and caches out. Also trainable: pass no cache, pad at the right."""

    def __init__(self, sizes: LanguageSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.model = Decoder(sizes)
        self.lm_head = nn.Linear(sizes.hidden, sizes.vocabulary, bias=False)
        self.rotary = Rotary(sizes)

    @classmethod
    def of(cls, sizes: LanguageSizes, state: Mapping[str, Tensor]) -> LanguageModel:
        """The model of a state dict (names as in this class), loaded strictly, in ``eval()``."""
        model = cls(sizes)
        model.load_state_dict(dict(state), strict=True)
        return model.eval()

    def empty_cache(self, batch: int = 1) -> Tensor:
        """Keys (or values) of no token: [L, B, kv_heads, 0, head_dim]."""
        sizes = self.sizes
        weight = self.lm_head.weight
        return weight.new_zeros(sizes.layers, batch, sizes.kv_heads, 0, sizes.head_dim)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Token ids [B, T] → [B, T, H]. Ids beyond the vocabulary stand for media: their rows mean nothing."""
        return self.model.embed_tokens(token_ids.clamp(max=self.sizes.vocabulary - 1))  # type: ignore[no-any-return]  # nn.Module.__call__

    def encode_box(self, boxes: Tensor) -> Tensor:
        """Normalised boxes [X, 4] → one token each [X, H]."""
        return self.model.bbox_encoder(boxes)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def feature(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [..., H] → [SEG] features [..., 256]."""
        return self.model.text_hidden_fcs[0](hidden)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def forward(
        self, embedded: Tensor, past_keys: Tensor | None = None, past_values: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One causal pass over tokens that follow the cached ones.

        Args:
            embedded: [B, T, H].
            past_keys: [L, B, kv_heads, P, head_dim], P may be 0; None means no past.
            past_values: as ``past_keys``.

        Returns:
            Hidden states after the final norm [B, T, H]; keys and values of all P + T tokens.
        """
        if past_keys is None or past_values is None:
            past_keys = past_values = self.empty_cache(embedded.shape[0])
        place = self._place(embedded.shape[1], past_keys.shape[3], embedded)
        x, keys, values = embedded, [], []
        for index, layer in enumerate(self.model.layers):
            x, layer_keys, layer_values = layer(x, place, (past_keys[index], past_values[index]))
            keys.append(layer_keys)
            values.append(layer_values)
        return self.model.norm(x), torch.stack(keys), torch.stack(values)

    def _place(self, length: int, past: int, like: Tensor) -> Place:
        positions = torch.arange(past, past + length, device=like.device)
        seen = torch.arange(past + length, device=like.device)
        hidden = seen[None] > positions[:, None]
        mask = torch.where(hidden, -torch.inf, 0.0).to(like.dtype)
        cosines, sines = self.rotary(positions)
        return Place(cosines, sines, mask)
