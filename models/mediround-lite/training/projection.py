"""The last layer of the [SEG] projection, solved rather than descended to.

Knows least squares over drawn lessons, every structure weighing the same. Gradient steps leave the rare ones
behind: a thalamus is one mask in a hundred, and its feature stayed near the mean of all class tokens.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import nn

from training.language import LanguageHalf
from training.rows import Pictures, Script, dialogue_lesson
from training.stage_b import Said

BATCHES, DIALOGUES, ROUNDS = 60, 12, 5
STIFFNESS = 0.01
"""What a weight's move costs, squared, beside the 29 structures' mean squared errors."""


@torch.inference_mode()
def solve(half: LanguageHalf, script: Script, pictures: Pictures, said: Said, seed: int) -> None:
    """Move the layer in place: features come to their class tokens; what they carry along the direction stays."""
    first, active, last = cast(nn.Sequential, half.model.model.text_hidden_fcs[0])
    last = cast(nn.Linear, last)
    random = np.random.default_rng(seed)
    usable = [row for row in range(len(pictures.views.z)) if pictures.askable(row)]
    inside, structures = [], []
    for _ in range(BATCHES):
        rows = random.choice(usable, DIALOGUES, replace=False)
        lessons = [dialogue_lesson(script, pictures, int(row), ROUNDS, random) for row in rows]
        hidden, _ = half([lesson.row for lesson in lessons], script.tokens)
        for line, lesson in enumerate(lessons):
            places = [at for at, _ in lesson.segs]
            inside.append(active(first(hidden[line, places])))
            structures += [structure for _, structure in lesson.segs]
    units = torch.cat(inside)
    missing = said.class_tokens[structures] - last(units)
    missing -= (missing @ said.direction)[:, None] * said.direction
    weight = 1 / torch.bincount(torch.tensor(structures)).double()[structures]
    units = torch.cat([units, units.new_ones(len(units), 1)], 1).double()
    against = (units * weight[:, None]).T
    stiff = STIFFNESS * torch.eye(units.shape[1], dtype=torch.float64)
    move = torch.linalg.solve(against @ units + stiff, against @ missing.double()).float()
    last.weight.add_(move[:-1].T)
    last.bias.add_(move[-1])
    left = (missing - units.float() @ move).norm(dim=1)
    before, after = float(missing.norm(dim=1).mean()), float(left.mean())
    print(f"projection: {len(structures)} features, {before:.2f} off before, {after:.2f} after", flush=True)
