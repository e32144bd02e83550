"""The four graphs as torch modules: networks joined at exactly the tensors that serving exchanges.

Knows what each graph does around its network: pixels' normalisation, judging before decoding, and where
media and boxes take their places among tokens. Does not know ONNX, files or manifests.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from exporters.modules.clip import VisionTower
from exporters.modules.heads import Heads
from exporters.modules.language import LanguageModel
from exporters.modules.sam_decoder import MaskDecoder
from exporters.modules.sam_vit import SamViT
from exporters.modules.tiny_vit import TinyViT
from serving.bundle import TokenSpec

Preprocessing = Literal["sam_mean_std", "minmax_valid"]

SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)
LEAST_RANGE = 1e-8
"""Divisor of an image whose pixels are all equal, as LiteMedSAM was trained."""


def preprocessing_of(encoder: SamViT | TinyViT) -> Preprocessing:
    """The normalisation that an encoder family was trained with."""
    match encoder:
        case SamViT():
            return "sam_mean_std"
        case TinyViT():
            return "minmax_valid"


class ImageEncoderGraph(nn.Module):
    """Pixels to embedding. Padding is zero after the normalisation, not a pixel value."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: SamViT | TinyViT) -> None:
        super().__init__()
        self.encoder = encoder
        self.preprocessing = preprocessing_of(encoder)
        self.register_buffer("mean", torch.tensor(SAM_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(SAM_STD), persistent=False)

    def forward(self, image_u8: Tensor, valid_hw: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] and valid int32 [B, 2] → [B, 256, 64, 64]."""
        x = image_u8.float()  # before any permute: TensorRT transposes no uint8
        steps = torch.arange(x.shape[1], dtype=torch.int32, device=x.device)
        rows = (steps < valid_hw[:, 0:1])[:, :, None, None]
        columns = (steps < valid_hw[:, 1:2])[:, None, :, None]
        inside = rows & columns  # [B, S, S, 1]
        normal = (x - self.mean) / self.std if self.preprocessing == "sam_mean_std" else _minmax(x, inside)
        zero = torch.zeros((), device=x.device)
        return self.encoder(torch.where(inside, normal, zero).permute(0, 3, 1, 2))  # type: ignore[no-any-return]  # nn.Module.__call__


def _minmax(x: Tensor, inside: Tensor) -> Tensor:
    """Each image's valid pixels to 0..1, over all channels together."""
    least = torch.where(inside, x, 255.0).amin(dim=(1, 2, 3), keepdim=True)
    most = torch.where(inside, x, 0.0).amax(dim=(1, 2, 3), keepdim=True)
    return (x - least) / (most - least).clamp(min=LEAST_RANGE)


class MaskDecoderGraph(nn.Module):
    """Judge, correct, decode: one call for K features on each of B embeddings."""

    def __init__(self, heads: Heads, decoder: MaskDecoder) -> None:
        super().__init__()
        self.heads, self.decoder = heads, decoder

    def forward(
        self, image_embeddings: Tensor, seg_features: Tensor, threshold: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """[B, 256, 64, 64], [B, K, 256], [B, K] → masks [B, K, 256, 256], iou, score, corrected, features."""
        score, corrected, features = self.heads(seg_features, threshold)
        masks, iou = self.decoder(image_embeddings, features)
        return masks, iou, score, corrected, features


class VisionTowerGraph(nn.Module):
    """Pixels [N, 3, P, P] → patch tokens [N, n, H] and crop token [N, H]."""

    def __init__(self, tower: VisionTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        patch_tokens, crop_token = self.tower(pixels)
        return patch_tokens, crop_token


class LanguageGraph(nn.Module):
    """Token ids, media and boxes to features and logits, continuing a past."""

    def __init__(self, language: LanguageModel, tokens: TokenSpec) -> None:
        super().__init__()
        self.language = language
        self.image_id, self.crop_id, self.bbox_id = tokens.image, tokens.crop, tokens.bbox

    def forward(  # noqa: PLR0917  # the exporter calls it by position
        self,
        input_ids: Tensor,
        media_tokens: Tensor,
        boxes: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
        feature_positions: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One pass over T tokens that follow P cached ones.

        Args:
            input_ids: int64 [1, T], the image expanded to its number of tokens.
            media_tokens: [M, H], in order, for every image and crop token of this call; a row too many is ignored.
            boxes: [X, 4], in order, for every box token of this call; a row too many is ignored.
            past_keys: [L, 1, kv_heads, P, head_dim], as is ``past_values``; P may be 0.
            feature_positions: int64 [F], indices into this call's tokens.

        Returns:
            Features [F, 256], logits [F, V], keys and values of all P + T tokens.
        """
        embedded = self.language.embed(input_ids)
        is_media = (input_ids == self.image_id) | (input_ids == self.crop_id)
        embedded = _placed(embedded, is_media, media_tokens)
        embedded = _placed(embedded, input_ids == self.bbox_id, self.language.encode_box(boxes))
        hidden, keys, values = self.language(embedded, past_keys, past_values)
        read = hidden[0].index_select(0, feature_positions)  # [F, H]
        return self.language.feature(read), self.language.lm_head(read), keys, values


def _placed(embedded: Tensor, chosen: Tensor, rows: Tensor) -> Tensor:
    """Put ``rows`` [M, H], in order, where ``chosen`` [1, T] says, into ``embedded`` [1, T, H]."""
    order = (chosen[0].long().cumsum(0) - 1).clamp(min=0)
    return torch.where(chosen.unsqueeze(-1), rows.index_select(0, order), embedded)
