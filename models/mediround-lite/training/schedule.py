"""How both stages' learning rates rise and fall. Knows neither networks nor rates."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch


def set_rates(optimizer: torch.optim.Optimizer, rates: Iterable[float], share: float) -> None:
    """Each parameter group's rate: ``share`` of its own highest."""
    for group, highest in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = highest * share


def share(step: int, steps: int, *, warm_up: int, least: float) -> float:
    """Linear over ``warm_up`` steps, then half a cosine down to ``least``."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / warm_up) * (least + (1 - least) * cosine)
