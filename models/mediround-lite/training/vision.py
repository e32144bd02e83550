"""The trained vision half: neck, mask decoder, and one class token per structure.

Knows how frozen features become logits and how logits score against labels. Does not know how it is
trained (``stage_a``) nor where [SEG] features come from (``stage_b``).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.modules.sam_decoder import MaskDecoder
from exporters.modules.tiny_vit import TinyViT
from training.targets import NAMES

SIDE = 256
SMALLEST = 80
"""Pixels at 256x256 from which a structure counts as present."""
ASKABLE = 200
"""Pixels at 256x256 from which a structure is asked for: below, slivers at a structure's ends."""


class VisionHalf(nn.Module):
    """What stage A trains, beside the frozen encoder."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck
        self.decoder = MaskDecoder()
        self.tokens = nn.Parameter(torch.randn(len(NAMES), 256))

    def forward(self, features: Tensor, seg_features: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder features [B, 320, 64, 64], [SEG] features [B, K, 256] → logits [B, K, 256, 256], IoU [B, K]."""
        return self.decoder(self.neck(features), seg_features)  # type: ignore[no-any-return]  # nn.Module


def starting_half(weights: Path, encoder: TinyViT, seed: int) -> VisionHalf:
    """LiteMedSAM's neck and decoder, and random class tokens."""
    torch.manual_seed(seed)
    half = VisionHalf(encoder.neck)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    names = ("prompt_encoder.", "mask_decoder.")
    half.decoder.load_state_dict({key: value for key, value in state.items() if key.startswith(names)})
    return half.requires_grad_(True)


def resized_planes(labels: NDArray[np.uint32], targets: list[int]) -> Tensor:
    """Label bits (217, 217) → the masks that logits should show, float [K, 256, 256]."""
    planes = np.stack([((labels >> np.uint32(k)) & 1).astype(np.float32) for k in targets])
    scaled = F.interpolate(torch.from_numpy(planes)[None], (SIDE, SIDE), mode="bilinear")[0]
    return (scaled > 0.5).float()


def areas(labels: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Pixels of each structure, as they count at 256x256: (29,)."""
    scale = (SIDE / labels.shape[0]) ** 2
    return np.array([np.count_nonzero(labels & np.uint32(1 << k)) * scale for k in range(len(NAMES))])


def present(labels: NDArray[np.uint32], least: int = SMALLEST) -> NDArray[np.int64]:
    """The structures of which labels show at least ``least`` pixels."""
    return np.flatnonzero(areas(labels) >= least)


def full_size(logits: NDArray[np.float32], side: int) -> NDArray[np.bool_]:
    """Logits (256, 256) → mask of a square image, as the service resizes it."""
    return np.asarray(cv2.resize(logits, (side, side), interpolation=cv2.INTER_LINEAR) > 0, np.bool_)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Overlap of two masks; 1 when both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 1.0 if total == 0 else 2.0 * np.count_nonzero(a & b) / total


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 when both are empty."""
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union
