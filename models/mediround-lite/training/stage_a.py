"""Stage A: neck, mask decoder and class tokens learn the structures, without any language.

Knows losses, sampling and schedule. Class tokens are frozen after a third of the steps: the decoder settles on
what stage B will learn to say. Continues where an earlier run stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.features import BF16, Views
from training.schedule import set_rates, share
from training.targets import NAMES
from training.vision import SMALLEST, VisionHalf, areas, dice, full_size, present, resized_planes

IMAGES, MASKS = 2, 4
RATES = {"decoder": 3e-4, "neck": 2e-4, "tokens": 4e-3}
WARM_UP, LEAST_RATE = 20, 0.02
KEEP_EVERY = 100
AVERAGE_DECAY = 0.997
LEAST_WEIGHT = 0.1
"""What a structure is drawn by that is segmented perfectly; 1 for one that is missed."""


@dataclass(frozen=True, slots=True)
class StageA:
    """Length and place of one run."""

    directory: Path
    steps: int
    seed: int

    @property
    def frozen_at(self) -> int:
        return self.steps * 3 // 10

    @property
    def state(self) -> Path:
        return self.directory / "stage_a.pt"

    @property
    def tokens(self) -> Path:
        return self.directory / "tokens.pt"


def train(run: StageA, half: VisionHalf, views: Views, dev: Views) -> None:
    """Train in place; writes ``tokens`` when they freeze and ``state`` every hundred steps.

    What remains in ``half`` is the running average of its weights.
    """
    groups = [
        {"params": list(half.decoder.parameters()), "lr": RATES["decoder"]},
        {"params": list(half.neck.parameters()), "lr": RATES["neck"]},
        {"params": [half.tokens], "lr": RATES["tokens"], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    sampler = Sampler(views, run.seed)
    keep = get_ema_multi_avg_fn(AVERAGE_DECAY)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    average = AveragedModel(half, multi_avg_fn=keep)
    networks = {"half": half, "average": average}
    step = _resume(run, networks, optimizer, sampler)
    start, seen = time.monotonic(), step
    while step < run.steps:
        set_rates(optimizer, RATES.values(), share(step, run.steps, warm_up=WARM_UP, least=LEAST_RATE))
        loss = _step(half, optimizer, sampler, step, frozen=step >= run.frozen_at)
        average.update_parameters(half)
        step += 1
        if step == run.frozen_at:
            torch.save(half.tokens.detach().clone(), run.tokens)
        if step % KEEP_EVERY == 0 or step == run.steps:
            _keep(run, networks, optimizer, sampler, step)
            rate = (time.monotonic() - start) / (step - seen)
            print(f"A {step}/{run.steps} loss {loss:.3f} {rate:.2f} s/step", flush=True)
        if step % (9 * KEEP_EVERY) == 0 or step == run.steps:
            print(f"A {step} dev Dice {mean_dice(cast(VisionHalf, average.module), dev):.3f}", flush=True)
    half.load_state_dict(average.module.state_dict())
    half.tokens.data.copy_(torch.load(run.tokens, weights_only=True))  # not their average: stage B learns these


class Sampler:
    """Draws images and structures by how badly each structure of each slice is still segmented.

    By slice too: a structure that is easy in its middle and hard where it begins is worth drawing there.
    """

    def __init__(self, views: Views, seed: int) -> None:
        self.views, self.seed = views, seed
        self.shows = np.stack([areas(labels) >= SMALLEST for labels in views.labels[: len(views.features)]])
        self.usable = np.flatnonzero(self.shows.any(1))
        self.badness = np.ones((int(views.z.max()) + 1, len(NAMES)))

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor, NDArray[np.int32]]:
        """Features [B, 320, 64, 64], structure numbers [B, K], masks [B, K, 256, 256], slices (B,)."""
        random = np.random.default_rng([self.seed, step])
        badness = self.badness[self.views.z[self.usable]]
        weight = LEAST_WEIGHT + badness.mean(1, where=self.shows[self.usable])
        rows = random.choice(self.usable, IMAGES, replace=False, p=weight / weight.sum())
        chosen = [self._structures(row, random) for row in rows]
        features = torch.from_numpy(np.stack([self.views.features[row] for row in rows])).float()
        masks = [resized_planes(self.views.labels[row], list(k)) for row, k in zip(rows, chosen, strict=True)]
        return features, torch.from_numpy(np.stack(chosen)), torch.stack(masks), self.views.z[rows]

    def learn(self, heights: NDArray[np.int32], structures: Tensor, losses: Tensor) -> None:
        """Remember how far each drawn structure's Dice is from 1."""
        for z, row, lost in zip(heights.tolist(), structures.tolist(), losses.tolist(), strict=True):
            for k, loss in zip(row, lost, strict=True):
                self.badness[z, k] += 0.5 * (loss - self.badness[z, k])

    def _structures(self, row: int, random: np.random.Generator) -> NDArray[np.int64]:
        present = np.flatnonzero(self.shows[row])
        weight = LEAST_WEIGHT + self.badness[self.views.z[row], present]
        return random.choice(present, MASKS, replace=present.size < MASKS, p=weight / weight.sum())


def _step(
    half: VisionHalf, optimizer: torch.optim.Optimizer, sampler: Sampler, step: int, *, frozen: bool
) -> float:
    features, structures, masks, heights = sampler.draw(step)
    loss, soft = _losses(half, features, half.tokens[structures], masks)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    if frozen:
        half.tokens.grad = None
    torch.nn.utils.clip_grad_norm_(half.parameters(), 1.0)
    optimizer.step()
    sampler.learn(heights, structures, soft.detach())
    return float(loss.detach())


@torch.compile(dynamic=False)
def _losses(half: VisionHalf, features: Tensor, seg_features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and each mask's Dice loss [B, K]. Compiled, a step takes 0.7 of its time."""
    with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
        logits, guess = half(features, seg_features)
    logits, guess = logits.float(), guess.float()
    shown = torch.sigmoid(logits)
    overlap = (shown * masks).sum((2, 3))
    soft = 1 - (2 * overlap + 1) / (shown.sum((2, 3)) + masks.sum((2, 3)) + 1)
    cross = F.binary_cross_entropy_with_logits(logits, masks)
    hard = (logits > 0).float()
    both = (hard * masks).sum((2, 3))
    truth = both / (hard.sum((2, 3)) + masks.sum((2, 3)) - both).clamp(min=1)
    return soft.mean() + 5 * cross + 0.1 * (guess - truth).square().mean(), soft


def _keep(
    run: StageA,
    networks: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    sampler: Sampler,
    step: int,
) -> None:
    partial = run.state.with_suffix(".partial")
    weights = {name: network.state_dict() for name, network in networks.items()}
    content = {"optimizer": optimizer.state_dict(), "step": step, "badness": torch.from_numpy(sampler.badness)}
    torch.save(weights | content, partial)
    partial.replace(run.state)


def _resume(
    run: StageA, networks: dict[str, nn.Module], optimizer: torch.optim.Optimizer, sampler: Sampler
) -> int:
    if not run.state.exists():
        return 0
    stored = torch.load(run.state, weights_only=True)
    for name, network in networks.items():
        network.load_state_dict(stored[name])
    optimizer.load_state_dict(stored["optimizer"])
    sampler.badness = stored["badness"].numpy()
    return int(stored["step"])


@torch.inference_mode()
def mean_dice(half: VisionHalf, views: Views) -> float:
    """Mean Dice at full size over every present structure of every encoded view, by class token."""
    scores = []
    for row, features in enumerate(views.features):
        shown = present(views.labels[row])
        logits, _ = half(torch.tensor(features[None]).float(), half.tokens[torch.from_numpy(shown)][None])
        for k, mask in zip(shown, logits[0].numpy(), strict=True):
            truth = (views.labels[row] & np.uint32(1 << int(k))) > 0
            scores.append(dice(full_size(mask, truth.shape[0]), truth))
    return float(np.mean(scores))
