"""What is measured: dialogues of a shape and length, on images that nobody has seen before.

Knows shapes of dialogues. Does not know how they are run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Shape = Literal["chain", "star"]
SIDE = 512


@dataclass(frozen=True, slots=True)
class Case:
    shape: Shape
    rounds: int
    concurrency: int

    @property
    def references(self) -> list[int | None]:
        """A chain refers to the round before, a star to the first round."""
        return [None if k == 0 else (k - 1 if self.shape == "chain" else 0) for k in range(self.rounds)]

    def __str__(self) -> str:
        return f"{self.shape} of {self.rounds}, {self.concurrency} at once"


@dataclass(frozen=True, slots=True)
class CaseQuestion:
    """One round, asked in mode forced."""

    text: str
    answer: str
    refer_to: int | None


def questions(case: Case) -> list[CaseQuestion]:
    words = ("left thalamus", *["region beside it"] * (case.rounds - 1))
    return [
        CaseQuestion(f"Segment the {name}.", f"It is the {name} [SEG].", reference)
        for name, reference in zip(words, case.references, strict=True)
    ]


def image(seed: int, side: int = SIDE) -> npt.NDArray[np.uint8]:
    """A smooth image with no black pixels: uint8 (side, side, 3); ``side``: a multiple of 16."""
    coarse = np.random.default_rng(seed).integers(1, 256, (16, 16, 3))
    return np.kron(coarse, np.ones((side // 16, side // 16, 1))).astype(np.uint8)


def every_case() -> list[Case]:
    shapes: list[Shape] = ["chain", "star"]
    return [Case(shape, rounds, at_once) for at_once in (1, 8) for rounds in (5, 10) for shape in shapes]


def case(text: str) -> Case:
    """``chain:5:8`` is a chain of five rounds, eight dialogues at once. Raises ValueError."""
    shape, rounds, at_once = text.split(":")
    return Case("chain" if shape == "chain" else "star", int(rounds), int(at_once))
