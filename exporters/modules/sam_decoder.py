"""SAM's prompt encoder and mask decoder, for prompts of one 256-d token and no dense prompt.

Knows SAM's state-dict names (``prompt_encoder.*``, ``mask_decoder.*``) and holds every published tensor,
also those that a one-token prompt never uses, so that checkpoints load strictly and save again whole.
Does not know the image encoder, thresholds, or how logits become a mask of the image's size.
B images with K prompts each; the image side of the first layer is the same for all K and computed once.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.modules.norm import LayerNorm2d

CHANNELS = 256
HEADS = 8
MLP = 2048
DEPTH = 2
MASKS = 4
"""Mask tokens. Token 0 gives the single mask; the others only take part in the attention."""


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than the tokens'.

    Between a few tokens and thousands of pixels, the pixels' projections are moved to the tokens' side
    (matrix products associate): the same result from a third of the arithmetic.
    """

    def __init__(self, downsample: int = 1) -> None:
        super().__init__()
        inner = CHANNELS // downsample
        self.scale = (inner // HEADS) ** -0.5
        self.q_proj = nn.Linear(CHANNELS, inner)
        self.k_proj = nn.Linear(CHANNELS, inner)
        self.v_proj = nn.Linear(CHANNELS, inner)
        self.out_proj = nn.Linear(inner, CHANNELS)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Among tokens: q, k, v [B, K, T, 256] → [B, K, T, 256]."""
        q, k, v = _heads(self.q_proj(q)) * self.scale, _heads(self.k_proj(k)), _heads(self.v_proj(v))
        return self._joined(torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v)

    def to_image(self, tokens: Tensor, placed: Tensor, image: Tensor) -> Tensor:
        """Tokens look at pixels: [B, K, T, 256]; keys and values [B, K or 1, P, 256] → [B, K, T, 256].

        The keys' bias is left out: it adds the same to all weights of a token.
        """
        q = (_heads(self.q_proj(tokens)) * self.scale) @ _by_head(self.k_proj)  # [B, K, heads, T, 256]
        weights = torch.softmax(q.flatten(2, 3) @ placed.transpose(-1, -2), dim=-1)  # [B, K, heads * T, P]
        mixed = torch.unflatten(weights @ image, 2, q.shape[2:4])  # [B, K, heads, T, 256]
        bias = self.v_proj.bias.view(HEADS, 1, -1)
        return self._joined(mixed @ _by_head(self.v_proj).transpose(-1, -2) + bias)

    def to_tokens(self, placed: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
        """Pixels look at tokens: [B, K or 1, P, 256]; keys and values [B, K, T, 256] → [B, K, P, 256]."""
        k = _heads(self.k_proj(tokens)) * self.scale  # [B, K, heads, T, d]
        bias = k @ self.q_proj.bias.view(HEADS, -1, 1)  # [B, K, heads, T, 1]
        k = k @ _by_head(self.q_proj)  # [B, K, heads, T, 256]
        scores = placed @ k.flatten(2, 3).transpose(-1, -2) + bias.flatten(2).unsqueeze(2)  # [B, K, P, heads * T]
        weights = torch.softmax(torch.unflatten(scores, -1, k.shape[2:4]), dim=-1).flatten(3)
        outer = torch.unflatten(self.out_proj.weight.t(), 0, (HEADS, -1))  # [heads, d, 256]
        return weights @ (_heads(self.v_proj(values)) @ outer).flatten(2, 3) + self.out_proj.bias

    def _joined(self, mixed: Tensor) -> Tensor:
        """[B, K, heads, T, d] → [B, K, T, 256]."""
        return self.out_proj(mixed.transpose(2, 3).flatten(3))  # type: ignore[no-any-return]  # nn.Module.__call__


def _heads(x: Tensor) -> Tensor:
    """[B, K, N, C] → [B, K, heads, N, C / heads]."""
    return torch.unflatten(x, -1, (HEADS, -1)).transpose(2, 3)


def _by_head(projection: nn.Linear) -> Tensor:
    """A projection's weight as [heads, d, 256]."""
    return torch.unflatten(projection.weight, 0, (HEADS, -1))


class TokenMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin1 = nn.Linear(CHANNELS, MLP)
        self.lin2 = nn.Linear(MLP, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.relu(self.lin1(x)))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to image, token MLP, image to tokens."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention()
        self.norm1 = nn.LayerNorm(CHANNELS)
        self.cross_attn_token_to_image = Attention(downsample=2)
        self.norm2 = nn.LayerNorm(CHANNELS)
        self.mlp = TokenMLP()
        self.norm3 = nn.LayerNorm(CHANNELS)
        self.cross_attn_image_to_token = Attention(downsample=2)
        self.norm4 = nn.LayerNorm(CHANNELS)

    def forward(self, tokens: Tensor, image: Tensor, prompt: Tensor, dense_pe: Tensor) -> tuple[Tensor, Tensor]:
        """tokens and prompt [B, K, T, 256], image [B, K or 1, P, 256], dense_pe [P, 256] → tokens, image."""
        if self.first:  # no position, and no residual, in the first self-attention
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + prompt
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        placed_image = image + dense_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image.to_image(tokens + prompt, placed_image, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token.to_tokens(placed_image, tokens + prompt, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(first=index == 0) for index in range(DEPTH))
        self.final_attn_token_to_image = Attention(downsample=2)
        self.norm_final_attn = nn.LayerNorm(CHANNELS)

    def forward(self, prompt: Tensor, image: Tensor, dense_pe: Tensor) -> tuple[Tensor, Tensor]:
        """prompt [B, K, T, 256], image [B, 1, P, 256] → tokens [B, K, T, 256], image [B, K, P, 256]."""
        tokens = prompt
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompt, dense_pe)
        attended = self.final_attn_token_to_image.to_image(tokens + prompt, image + dense_pe, image)
        return self.norm_final_attn(tokens + attended), image


class MLPHead(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        widths = (CHANNELS, CHANNELS, CHANNELS, outputs)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layers[0](x))
        x = F.relu(self.layers[1](x))
        return self.layers[2](x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class PromptEncoder(nn.Module):
    """Holds the dense position code and the embedding that says "no mask given"."""

    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = PositionEncoding()
        self.no_mask_embed = nn.Embedding(1, CHANNELS)
        # For points, boxes and mask prompts, which MediRound never gives: kept for strict loading.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, CHANNELS) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, CHANNELS)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, 2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, 2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, CHANNELS, 1),
        )


class PositionEncoding(nn.Module):
    """Random Fourier features of the cell centres. The matrix is part of the model: a checkpoint must hold it."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, CHANNELS // 2))

    def forward(self, height: int, width: int) -> Tensor:
        """[height * width, 256]: sines, then cosines, of 2π (x·g0 + y·g1) with x, y in -1..1.

        Built from one table a row and one a column by the addition theorem, so that a graph stores
        64 x 128 tables instead of the 4 MB grid.
        """
        matrix = self.positional_encoding_gaussian_matrix
        x = _centres(width, matrix)[:, None] * matrix[0] * (2 * math.pi)  # [W, 128]
        y = _centres(height, matrix)[:, None] * matrix[1] * (2 * math.pi)  # [H, 128]
        sin_x, cos_x = torch.sin(x)[None], torch.cos(x)[None]
        sin_y, cos_y = torch.sin(y)[:, None], torch.cos(y)[:, None]
        sines = sin_x * cos_y + cos_x * sin_y
        cosines = cos_x * cos_y - sin_x * sin_y
        return torch.cat([sines, cosines], dim=-1).flatten(0, 1)


def _centres(count: int, like: Tensor) -> Tensor:
    """Centres of ``count`` equal cells of -1..1."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) * (2 / count) - 1


class SamMaskDecoder(nn.Module):
    """SAM's mask decoder: tokens and an image in, one mask and its predicted IoU out."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer()
        self.iou_token = nn.Embedding(1, CHANNELS)
        self.mask_tokens = nn.Embedding(MASKS, CHANNELS)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(CHANNELS, CHANNELS // 4, 2, 2),
            LayerNorm2d(CHANNELS // 4),
            nn.GELU(),
            nn.ConvTranspose2d(CHANNELS // 4, CHANNELS // 8, 2, 2),
            nn.GELU(),
        )
        # Only the first serves a single mask; the others are kept for strict loading.
        self.output_hypernetworks_mlps = nn.ModuleList(MLPHead(CHANNELS // 8) for _ in range(MASKS))
        self.iou_prediction_head = MLPHead(MASKS)

    def forward(self, image: Tensor, seg_features: Tensor, dense_pe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image [B, P, 256], features [B, K, 256] → pixels [B, K, P, 4, 4, 32], weights [B, K, 32], iou [B, K]."""
        batch, prompts, _ = seg_features.shape
        output = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        output = output.expand(batch, prompts, -1, -1)
        prompt = torch.cat([output, seg_features.unsqueeze(2)], dim=2)  # [B, K, 6, 256]
        tokens, pixels = self.transformer(prompt, image.unsqueeze(1), dense_pe)
        weights = self.output_hypernetworks_mlps[0](tokens[:, :, 1])
        iou = self.iou_prediction_head(tokens[:, :, 0])[..., 0]
        return self._upscale(pixels), weights, iou

    def _upscale(self, x: Tensor) -> Tensor:
        """[..., P, 256] → [..., P, 4, 4, 32]: two doublings; both 4s say where in its cell a pixel lies.

        A transposed convolution of stride 2 and kernel 2 is one matrix product a cell. The cells are put in
        their places by the caller, after the channels are gone.
        """
        first, norm, _, second, _ = self.output_upscaling
        x = _doubled(x, cast(nn.ConvTranspose2d, first))  # [..., P, 4, 64]
        x = F.gelu(nn.LayerNorm.forward(cast(LayerNorm2d, norm), x))
        return F.gelu(_doubled(x, cast(nn.ConvTranspose2d, second)))  # [..., P, 4, 4, 32]


def _doubled(x: Tensor, conv: nn.ConvTranspose2d) -> Tensor:
    """[..., C] → [..., 4, C']: the 2x2 pixels, row by row, that a cell becomes."""
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # [C, 2 * 2 * C']
    y = torch.unflatten(x @ weight, -1, (4, -1))
    return y if conv.bias is None else y + conv.bias


class MaskDecoder(nn.Module):
    """Prompt encoder and mask decoder together: features in, mask logits out. Also trainable.

    State-dict names are those of a SAM checkpoint without its image encoder.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prompt_encoder = PromptEncoder()
        self.mask_decoder = SamMaskDecoder()

    def forward(self, image_embeddings: Tensor, seg_features: Tensor) -> tuple[Tensor, Tensor]:
        """Decode K features on each of B images.

        Args:
            image_embeddings: [B, 256, h, w].
            seg_features: [B, K, 256].

        Returns:
            Mask logits [B, K, 4h, 4w] and predicted IoU [B, K].
        """
        height, width = image_embeddings.shape[2:]
        dense_pe = self.prompt_encoder.pe_layer(height, width)
        image = image_embeddings.flatten(2).transpose(1, 2) + self.prompt_encoder.no_mask_embed.weight
        upscaled, weights, iou = self.mask_decoder(image, seg_features, dense_pe)
        logits = upscaled.flatten(2, 4) @ weights.unsqueeze(-1)  # [B, K, P * 16, 1]
        # [h, w, (row, column) of the first doubling, (row, column) of the second] → rows and columns
        cells = torch.unflatten(logits.squeeze(-1), 2, (height, width, 2, 2, 2, 2))
        masks = cells.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 7).flatten(2, 4)
        return masks, iou
