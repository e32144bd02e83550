"""Judge and corrector, trained on features that are made worse on purpose.

Knows the degradations and both losses. The networks they judge are frozen. An undisturbed [SEG] feature is a
class token and, along one direction, what the language half expects of the mask (``quality``): it leaves
nothing to correct, but something to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from exporters.modules.heads import FEATURE, HIDDEN, Corrector, Judge
from serving.domain import TowerImage
from training.features import BF16, GEOMETRY, Views, rgb
from training.language import LanguageHalf, Row
from training.questions import ANSWERS, Asked, Relation
from training.rows import Script
from training.targets import NAMES
from training.vision import VisionHalf, full_size, iou, present

SORTS = ("clean", "mixture", "noise", "shrunk", "clipped", "patched")
UNSEEN_SORTS = ("dropped", "quantised")
"""Degradations that neither head was trained on: what remains of a lossy channel, and of coarse numbers."""
CORRECTOR_STEPS, JUDGE_STEPS, BATCH = 2500, 3000, 132
STRUCTURES = 10
JITTER = 0.1
"""Spread of what is added to each number of a feature whenever the judge learns from it."""


def told(half: LanguageHalf, script: Script, image: TowerImage, structures: Sequence[int]) -> Tensor:
    """The [SEG] features [N, 256] of structures that are asked for by name."""
    rows = []
    for k in structures:
        asked = Asked(Relation.NAME, f"Segment the {NAMES[k]}.", None, k, ANSWERS[0].format(NAMES[k]))
        rows.append(Row(image, (*script.prompt(asked, first=True), *script.said(asked.answer)), ()))
    hidden, token_ids = half(rows, script.tokens)
    last = (token_ids >= 0).sum(1) - 1
    return half.model.feature(hidden[torch.arange(len(rows)), last])


def degraded(right: Tensor, tokens: Tensor, sort: str, random: torch.Generator) -> Tensor:
    """Features [N, 256] made worse in one way; ``tokens`` [29, 256] are what may get into them."""
    return _WORSE[sort](_Features(right, tokens, random))


@dataclass(frozen=True, slots=True)
class _Features:
    right: Tensor
    tokens: Tensor
    random: torch.Generator

    def amount(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(self.right), 1, generator=self.random)

    def other(self) -> Tensor:
        return self.tokens[torch.randint(len(self.tokens), (len(self.right),), generator=self.random)]

    def noise(self) -> Tensor:
        return torch.randn(self.right.shape, generator=self.random)

    def chosen(self, low: float, high: float) -> Tensor:
        """Some of a feature's numbers; a share between ``low`` and ``high`` of them."""
        return torch.rand(self.right.shape, generator=self.random) < self.amount(low, high)


def _mixture(of: _Features) -> Tensor:
    return torch.lerp(of.other(), of.right, of.amount(0.52, 0.90))


def _clipped(of: _Features) -> Tensor:
    limit = of.amount(0.2, 1.2)
    return of.right.clamp(-limit, limit)


def _quantised(of: _Features) -> Tensor:
    step = of.amount(1.5, 3.0)
    return torch.round(of.right / step) * step


_WORSE: dict[str, Callable[[_Features], Tensor]] = {
    "clean": lambda of: of.right + 0.01 * of.noise(),
    "mixture": _mixture,
    "noise": lambda of: of.right + of.amount(0.3, 1.3) * of.noise(),
    "shrunk": lambda of: of.right * of.amount(0.15, 0.75),
    "clipped": _clipped,
    "patched": lambda of: torch.where(of.chosen(0.1, 0.5), of.other(), of.right),
    "dropped": lambda of: of.right.masked_fill(of.chosen(0.3, 0.7), 0.0),
    "quantised": _quantised,
}


def identity_corrector() -> Corrector:
    """A corrector that returns its input, but for rounding: gelu(x) - gelu(-x) = x."""
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
        worse = torch.cat(
            [degraded(tokens[part], tokens, sort, random) for part, sort in zip(parts, SORTS, strict=True)]
        )
        loss = F.mse_loss(corrector(worse), tokens[structures])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(corrector.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    print(f"corrector: mean squared error {float(loss.detach()):.4f}", flush=True)
    return corrector.eval()


@torch.inference_mode()
def judged_pairs(
    vision: VisionHalf, half: LanguageHalf, script: Script, views: Views, seed: int
) -> tuple[Tensor, Tensor]:
    """Degraded features [N, 256] and the IoU [N] of the masks they give on views that nothing was trained on."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    features, truths = [], []
    for row in range(len(views.features)):
        shown = present(views.labels[row])
        if not shown.size:
            continue
        structures = random.choice(shown, STRUCTURES).tolist()
        right = told(half, script, GEOMETRY.source_image(rgb(views.images[row])).tower, structures)
        worse = torch.cat([degraded(right, vision.tokens, sort, generator) for sort in SORTS])
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            logits, _ = vision(torch.tensor(views.features[row][None]).float(), worse[None])
        for k, mask in zip(structures * len(SORTS), logits[0].float().numpy(), strict=True):
            truth = (views.labels[row] & np.uint32(1 << k)) > 0
            truths.append(iou(full_size(mask, truth.shape[0]), truth))
        features.append(worse)
        if row % 50 == 49:
            print(f"judge: {row + 1}/{len(views.features)} views", flush=True)
    return torch.cat(features).clone(), torch.tensor(truths)


def train_judge(features: Tensor, truths: Tensor, seed: int) -> Judge:
    """Binary cross-entropy of the score on the mask's IoU."""
    torch.manual_seed(seed)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=5e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, JUDGE_STEPS)
    for _ in range(JUDGE_STEPS):
        rows = torch.randint(len(features), (BATCH,))
        moved = features[rows] + JITTER * torch.randn(BATCH, FEATURE)
        loss = F.binary_cross_entropy(judge(moved), truths[rows].float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
    print(f"judge: cross-entropy {float(loss.detach()):.4f}", flush=True)
    return judge.eval()
