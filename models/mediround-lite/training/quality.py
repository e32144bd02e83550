"""How good the mask of each structure will be on each view, and where a [SEG] feature can carry that.

Knows the vision half alone. The judge sees a feature and nothing else; a feature that is only a class token
says how hard a structure is on average. So the language half, which sees the image, learns to add the
expected IoU along one direction, to which the decoder hardly answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.features import BF16, Views
from training.vision import VisionHalf, present

MIDDLE, SPREAD = 0.75, 0.15
"""An IoU is carried as its distance from the one in units of the other."""
LIMIT = 3.0
ASKED = 3
"""Structures of a view whose mask is looked at."""
GRADIENTS = 4
"""Per view, of random sums of its logits."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What the [SEG] feature of a structure on a view is to be: its class token + ``carried`` x ``direction``."""

    direction: Tensor  # (256,) of length 1, square to every class token
    carried: NDArray[np.float32]  # (N, 29); NaN where nobody looked


def expected(half: VisionHalf, views: Views, seed: int) -> NDArray[np.float32]:
    """The IoU that the decoder's own head expects of some structures of each view: (N, 29), NaN elsewhere."""
    random = np.random.default_rng(seed)
    found = np.full((len(views.features), len(half.tokens)), np.nan, np.float32)
    for row in range(len(views.features)):
        asked = random.permutation(present(views.labels[row]))[:ASKED]
        if asked.size:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=BF16):
                _, guess = half(_features(views, row), half.tokens[torch.from_numpy(asked)][None])
            found[row, asked] = guess.float().reshape(-1).numpy()
    return found


def carried(iou: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.clip((iou - MIDDLE) / SPREAD, -LIMIT, LIMIT), np.float32)


def direction(half: VisionHalf, views: Views, rows: list[int], seed: int) -> Tensor:
    """The unit vector, square to the class tokens, along which logits near a mask's border change least."""
    random = torch.Generator().manual_seed(seed)
    tokens = half.tokens.detach()
    change = torch.zeros(tokens.shape[1], tokens.shape[1])
    for row in rows:
        features = tokens[torch.from_numpy(present(views.labels[row]))][None].clone().requires_grad_(True)
        logits, _ = half(_features(views, row), features)
        near = (logits.detach().abs() < 4).float()
        for number in range(GRADIENTS):
            sign = torch.randint(0, 2, logits.shape, generator=random) * 2.0 - 1
            total = (logits * near * sign / near.sum((2, 3), keepdim=True).clamp(min=1).sqrt()).sum()
            (slope,) = torch.autograd.grad(total, features, retain_graph=number < GRADIENTS - 1)
            change += slope[0].T @ slope[0]
    inside, _ = torch.linalg.qr(tokens.T)
    outside = torch.eye(len(change)) - inside @ inside.T
    values, vectors = torch.linalg.eigh(outside @ change @ outside + inside @ inside.T * change.trace())
    print(f"direction: {float(values[0]):.3g} of a mean of {float(change.trace()) / len(change):.3g}", flush=True)
    return torch.as_tensor(vectors[:, 0]).contiguous()


def _features(views: Views, row: int) -> Tensor:
    return torch.tensor(views.features[row][None]).float()
