"""Judge and corrector, trained on features that are made worse on purpose.

Knows the degradations and both losses. The networks they judge are frozen. Because a [SEG] feature is
nearly a class token, undisturbed features leave nothing to correct.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from exporters.modules.heads import FEATURE, HIDDEN, Corrector, Judge
from training.features import Views
from training.vision import SMALLEST, VisionHalf, areas, full_size, iou

SORTS = ("clean", "mixture", "noise", "shrunk")
UNSEEN_SORTS = ("dropped", "quantised")
"""Degradations that neither head was trained on: what remains of a lossy channel, and of coarse numbers."""
CORRECTOR_STEPS, JUDGE_STEPS, BATCH = 2500, 1500, 128
STRUCTURES = 4


def degraded(tokens: Tensor, structures: Tensor, sort: str, random: torch.Generator) -> Tensor:
    """Class tokens [N, 256] of ``structures`` [N], made worse in one way."""
    right = tokens[structures]

    def amount(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(structures), 1, generator=random)

    if sort == "mixture":
        share = amount(0.52, 0.90)
        other = tokens[torch.randint(len(tokens), (len(structures),), generator=random)]
        return share * right + (1 - share) * other
    if sort == "noise":
        return right + amount(0.3, 1.3) * torch.randn(right.shape, generator=random)
    if sort == "shrunk":
        return amount(0.15, 0.75) * right
    if sort == "dropped":
        kept = torch.rand(right.shape, generator=random) > amount(0.3, 0.7)
        return right * kept
    if sort == "quantised":
        step = amount(1.5, 3.0)
        return torch.round(right / step) * step
    return right + 0.01 * torch.randn(right.shape, generator=random)


def identity_corrector() -> Corrector:
    """A corrector that returns its input exactly: gelu(x) - gelu(-x) = x."""
    corrector = Corrector()
    one = torch.eye(FEATURE)
    both = torch.cat([one, -one])
    with torch.no_grad():
        for layer in (corrector.fc1, corrector.fc2, corrector.fc3):
            layer.bias.zero_()
        corrector.fc1.weight.copy_(both)
        corrector.fc2.weight.copy_(both @ both.T)
        corrector.fc3.weight.copy_(both.T)
    if corrector.fc1.out_features != HIDDEN:
        raise AssertionError("the identity needs twice the feature's width inside")
    return corrector


def train_corrector(tokens: Tensor, seed: int) -> Corrector:
    """Regress degraded features to their class tokens, from the identity."""
    random = torch.Generator().manual_seed(seed)
    corrector = identity_corrector()
    optimizer = torch.optim.AdamW(corrector.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, CORRECTOR_STEPS)
    for _ in range(CORRECTOR_STEPS):
        structures = torch.randint(len(tokens), (BATCH,), generator=random)
        parts = structures.chunk(len(SORTS))
        worse = torch.cat([degraded(tokens, part, sort, random) for part, sort in zip(parts, SORTS, strict=True)])
        loss = F.mse_loss(corrector(worse), tokens[structures])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(corrector.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    print(f"corrector: mean squared error {float(loss.detach()):.4f}", flush=True)
    return corrector.eval()


@torch.inference_mode()
def judged_pairs(vision: VisionHalf, tokens: Tensor, views: Views, seed: int) -> tuple[Tensor, Tensor]:
    """Degraded features [N, 256] and the IoU [N] of the masks they give on views that nothing was trained on."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    features, truths = [], []
    for row in range(len(views.features)):
        present = np.flatnonzero(areas(views.labels[row]) >= SMALLEST)
        if not present.size:
            continue
        structures = torch.from_numpy(random.choice(present, STRUCTURES))
        worse = torch.cat([degraded(tokens, structures, sort, generator) for sort in SORTS])
        logits, _ = vision(torch.tensor(views.features[row][None]).float(), worse[None])
        for k, mask in zip(structures.tolist() * len(SORTS), logits[0].numpy(), strict=True):
            truth = (views.labels[row] & np.uint32(1 << k)) > 0
            truths.append(iou(full_size(mask, truth.shape[0]), truth))
        features.append(worse)
    return torch.cat(features).clone(), torch.tensor(truths)


def train_judge(features: Tensor, truths: Tensor, seed: int) -> Judge:
    """Binary cross-entropy of the score on the mask's IoU."""
    torch.manual_seed(seed)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=5e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, JUDGE_STEPS)
    for _ in range(JUDGE_STEPS):
        rows = torch.randint(len(features), (BATCH,))
        loss = F.binary_cross_entropy(judge(features[rows]), truths[rows].float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
    print(f"judge: cross-entropy {float(loss.detach()):.4f}", flush=True)
    return judge.eval()
