"""The last layer of the [SEG] projection, solved rather than descended to.

Knows least squares over drawn lessons, every structure weighing the same. Gradient steps leave the rare ones
behind: a thalamus is one mask in a hundred, and its feature stayed near the mean of all class tokens. They also
leave most of the inner units dead (never above 0), too few for 29 tokens: dead ones are drawn anew first.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.language import LanguageHalf
from training.rows import Pictures, Script, dialogue_lesson
from training.stage_b import Said

BATCHES, DIALOGUES, ROUNDS = 60, 12, 5
STIFFNESS = 0.01
"""What a weight's move costs, squared, beside the 29 structures' mean squared errors."""
SHRINKAGE, REACH = 0.05, 3.0
"""How far the spread within structures is taken for equal in all directions; a new unit's own spread."""


@torch.inference_mode()
def solve(half: LanguageHalf, script: Script, pictures: Pictures, said: Said, seed: int) -> None:
    """Move the layer in place: features come to their class tokens; what they carry along the direction stays."""
    first, active, last = cast(nn.Sequential, half.model.model.text_hidden_fcs[0])
    first, last = cast(nn.Linear, first), cast(nn.Linear, last)
    states, structures = _states(half, script, pictures, seed)
    dead = torch.nonzero(active(first(states)).amax(0) == 0)[:, 0]
    _redraw(first, dead, states, structures, seed)
    last.weight[:, dead] = 0.0
    units = active(first(states))
    missing = said.class_tokens[structures] - last(units)
    missing -= (missing @ said.direction)[:, None] * said.direction
    weight = 1 / torch.bincount(structures).double()[structures]
    units = torch.cat([units, units.new_ones(len(units), 1)], 1).double()
    against = (units * weight[:, None]).T
    stiff = STIFFNESS * torch.eye(units.shape[1], dtype=torch.float64)
    move = torch.linalg.solve(against @ units + stiff, against @ missing.double()).float()
    last.weight.add_(move[:-1].T)
    last.bias.add_(move[-1])
    left = (missing - units.float() @ move).norm(dim=1)
    before, after = float(missing.norm(dim=1).mean()), float(left.mean())
    print(f"projection: {len(dead)} dead units, {before:.2f} off before, {after:.2f} after", flush=True)


def _states(half: LanguageHalf, script: Script, pictures: Pictures, seed: int) -> tuple[Tensor, Tensor]:
    """Hidden states [N, H] that features are read from, and their structures [N]."""
    random = np.random.default_rng(seed)
    states, structures = [], []
    for _ in range(BATCHES):
        rows = random.choice(pictures.usable, DIALOGUES, replace=False)
        lessons = [dialogue_lesson(script, pictures, int(row), ROUNDS, random) for row in rows]
        hidden, _ = half([lesson.row for lesson in lessons], script.tokens)
        for line, lesson in enumerate(lessons):
            states.append(hidden[line, [at for at, _ in lesson.segs]])
            structures += [structure for _, structure in lesson.segs]
    return torch.cat(states), torch.tensor(structures)


def _redraw(first: nn.Linear, dead: Tensor, states: Tensor, structures: Tensor, seed: int) -> None:
    """Give units random mixtures of Fisher's discriminants, each above 0 for about half of the states."""
    shares = F.one_hot(structures).float()
    middles = shares.T @ states / shares.sum(0).clamp(min=1)[:, None]
    within = states - middles[structures]
    spread = torch.cov(within.T)
    spread += SHRINKAGE * spread.diagonal().mean() * torch.eye(len(spread))
    discriminants = torch.linalg.solve(spread, (middles - states.mean(0)).T).T
    mixtures = torch.randn(len(dead), len(middles), generator=torch.Generator().manual_seed(seed)) @ discriminants
    mixtures *= REACH / (states @ mixtures.T).std(0)[:, None]
    first.weight[dead] = mixtures
    first.bias[dead] = -mixtures @ states.mean(0)
