"""Stage B: the language half learns to answer, and to say each structure's class token before [SEG].

Knows losses, mixture and schedule. Of the vision half it needs the frozen class tokens, and how good it expects
its masks to be: the feature carries that for the judge (``quality``).
Half of the rows stand alone and can only be answered from crop and box. Continues where a run stopped.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from serving.bundle import TokenSpec
from training.language import IGNORED, LanguageHalf
from training.rows import Lesson, Pictures, Script, dialogue_lesson, standalone_lesson
from training.schedule import set_rates, share

DIALOGUES, STANDALONE = 8, 12
ROUNDS, LONG_ROUNDS, LONG_SHARE = (3, 6), (7, 10), 0.2
RATE, PROJECTION_FACTOR, WARM_UP, LEAST_RATE = 1e-3, 2.0, 30, 0.01
WORD_WEIGHT, FEATURE_WEIGHT, NAME_WEIGHT, ANSWER_WEIGHT = 3.0, 2.0, 0.7, 1.0
CARRIED_WEIGHT, GIST_WEIGHT = 0.15, 0.3
KEEP_EVERY = 50


@dataclass(frozen=True, slots=True)
class StageB:
    """Length and place of one run."""

    directory: Path
    steps: int
    seed: int

    @property
    def state(self) -> Path:
        return self.directory / "stage_b.pt"


@dataclass(frozen=True, slots=True)
class Said:
    """What [SEG] features are made of."""

    class_tokens: Tensor  # (29, 256)
    direction: Tensor  # (256,) square to the class tokens; along it the expected IoU


@dataclass(frozen=True, slots=True)
class Losses:
    words: Tensor
    feature: Tensor
    names: Tensor
    answers: Tensor
    carried: Tensor
    gist: Tensor

    def total(self) -> Tensor:
        text = WORD_WEIGHT * self.words + FEATURE_WEIGHT * self.feature
        heads = NAME_WEIGHT * self.names + ANSWER_WEIGHT * self.answers
        return text + heads + CARRIED_WEIGHT * self.carried + GIST_WEIGHT * self.gist

    def text(self) -> str:
        return " ".join(f"{part.name} {float(getattr(self, part.name).detach()):.4f}" for part in fields(self))


def train(run: StageB, half: LanguageHalf, script: Script, pictures: Pictures, said: Said) -> None:
    """Train in place."""
    projection = list(half.model.model.text_hidden_fcs.parameters())
    known = {id(parameter) for parameter in projection}
    rest = [parameter for parameter in half.parameters() if id(parameter) not in known]
    rates = (RATE, RATE * PROJECTION_FACTOR)
    groups = [{"params": part, "lr": rate} for part, rate in zip((rest, projection), rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    step = _resume(run, half, optimizer)
    start, seen = time.monotonic(), step

    def drawn(at: int) -> tuple[list[Lesson], list[Lesson]]:
        return draw(script, pictures, np.random.default_rng([run.seed, at]))

    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(drawn, step)
        while step < run.steps:
            lessons, coming = coming.result(), ahead.submit(drawn, step + 1)
            set_rates(optimizer, rates, share(step, run.steps, warm_up=WARM_UP, least=LEAST_RATE))
            parts = [losses(half, batch, script.tokens, said) for batch in lessons]
            loss = torch.stack([part.total() for part in parts]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.nn.utils.clip_grad_norm_(half.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % KEEP_EVERY == 0 or step == run.steps:
                _keep(run, half, optimizer, step)
                pace = (time.monotonic() - start) / (step - seen)
                told = " | ".join(part.text() for part in parts)
                print(f"B {step}/{run.steps} {told} {pace:.2f} s/step", flush=True)


def draw(script: Script, pictures: Pictures, random: np.random.Generator) -> tuple[list[Lesson], list[Lesson]]:
    """One step's dialogues and stand-alone rows."""
    rows = [int(row) for row in random.choice(pictures.usable, DIALOGUES + STANDALONE, replace=False)]
    few, many = LONG_ROUNDS if random.random() < LONG_SHARE else ROUNDS
    lengths = random.integers(few, many + 1, DIALOGUES).tolist()
    long = [
        dialogue_lesson(script, pictures, row, rounds, random)
        for row, rounds in zip(rows[:DIALOGUES], lengths, strict=True)
    ]
    short = [standalone_lesson(script, pictures, row, random) for row in rows[DIALOGUES:]]
    return long, [lesson for lesson in short if lesson is not None]


def losses(half: LanguageHalf, lessons: list[Lesson], tokens: TokenSpec, said: Said) -> Losses:
    """Next word, [SEG] feature and what it carries, referred and wanted name, gist over the rows of one batch."""
    rows = [lesson.row for lesson in lessons]
    seen = half.see(rows)
    hidden, token_ids = half(rows, tokens, seen=seen)
    wanted = torch.full_like(token_ids, IGNORED)
    for line, lesson in enumerate(lessons):
        spoken = torch.tensor(lesson.spoken)
        wanted[line, : len(spoken)] = torch.where(spoken, token_ids[line, : len(spoken)], IGNORED)
    told = wanted[:, 1:] != IGNORED
    words = F.cross_entropy(half.model.lm_head(hidden[:, :-1][told]), wanted[:, 1:][told])
    at, structures = _positions([lesson.segs for lesson in lessons])
    features = half.model.feature(hidden[at])
    along = features @ said.direction
    feature = F.mse_loss(features - along[:, None] * said.direction, said.class_tokens[structures])
    carried = _known_error(along, torch.tensor([value for lesson in lessons for value in lesson.carried]))
    wide = half.gist(seen[0].mean(1)).unflatten(1, (2, -1))
    gist = _known_error(wide, torch.from_numpy(np.stack([lesson.gist for lesson in lessons])))
    at, structures = _positions([lesson.boxes for lesson in lessons])
    names = F.cross_entropy(half.names(hidden[at]), structures) if len(structures) else feature.new_zeros(())
    at, structures = _positions([lesson.ends for lesson in lessons])
    answers = F.cross_entropy(half.answers(hidden[at]), structures)
    return Losses(words, feature, names, answers, carried, gist)


def _known_error(guess: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error where ``wanted`` is not NaN."""
    known = ~wanted.isnan()
    return F.mse_loss(guess[known], wanted[known]) if bool(known.any()) else guess.new_zeros(())


def _positions(found: list[tuple[tuple[int, int], ...]]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    lines = [(line, at, k) for line, pairs in enumerate(found) for at, k in pairs]
    table = torch.tensor(lines, dtype=torch.long).reshape(-1, 3)
    return (table[:, 0], table[:, 1]), table[:, 2]


def _keep(run: StageB, half: LanguageHalf, optimizer: torch.optim.Optimizer, step: int) -> None:
    partial = run.state.with_suffix(".partial")
    torch.save({"half": half.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
    partial.replace(run.state)


def _resume(run: StageB, half: LanguageHalf, optimizer: torch.optim.Optimizer) -> int:
    if not run.state.exists():
        return 0
    stored = torch.load(run.state, weights_only=True)
    half.load_state_dict(stored["half"])
    optimizer.load_state_dict(stored["optimizer"])
    return int(stored["step"])
