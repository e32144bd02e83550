"""Whether what was served is what the plain loop computes: rules that were fixed before the first run.

Knows arrays. Does not know how they came about.

- A feature must be no further from the float32 loop's than twice what the bfloat16 loop's is (Euclidean distance).
- A score must be the judge's of that very feature, within ``SCORE``: image half and judge compute in float32.
- A generated word must be the float32 loop's likeliest, or one whose logit there is below the likeliest's by no
  more than twice the most that any logit of the bfloat16 loop is off in that place: a tie, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.domain import F32

I64 = npt.NDArray[np.int64]

TIMES = 2.0
SCORE = 1e-4


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison."""

    what: str
    value: float
    limit: float
    note: str = ""

    @property
    def agrees(self) -> bool:
        return bool(self.value <= self.limit)  # never where a value is not a number


def features(served: F32, loop: Mapping[str, F32]) -> Iterator[Finding]:
    """Of each round: served (R, 256) against ``features_fp32`` and ``features_bf16``."""
    fp32, bf16 = loop["features_fp32"], loop["features_bf16"]
    for index in range(len(served)):
        size = float(np.linalg.norm(fp32[index]))
        moved, allowed = (float(np.linalg.norm(each[index] - fp32[index])) for each in (served, bf16))
        yield Finding(f"round {index}: feature", moved, TIMES * allowed, f"of length {size:.3g}")


def scores(served: F32, loop: Mapping[str, F32]) -> Iterator[Finding]:
    """Of each round: served (R,) against ``scores_served``, the judge's of the served feature."""
    for index, score in enumerate(served):
        names = ("fp32", "bf16")
        note = ", ".join(f"{name} loop {float(loop[f'scores_{name}'][index]):.4f}" for name in names)
        off = abs(float(score) - float(loop["scores_served"][index]))
        yield Finding(f"round {index}: score {float(score):.4f}", off, SCORE, note)


def words(token_ids: I64, never: Collection[int], loop: Mapping[str, F32]) -> Iterator[Finding]:
    """Of each generated token (words,): against ``logits_fp32`` and ``logits_bf16`` (words, V)."""
    allowed = np.ones(loop["logits_fp32"].shape[1], np.bool_)
    allowed[list(never)] = False
    for place, token in enumerate(token_ids):
        fp32, bf16 = loop["logits_fp32"][place], loop["logits_bf16"][place]
        best = int(np.argmax(np.where(allowed, fp32, -np.inf)))
        noise = float(np.abs(bf16 - fp32)[allowed].max())
        note = "the float32 loop's own" if best == token else f"a tie with {best}"
        yield Finding(f"word {place}: id {token}", float(fp32[best] - fp32[token]), TIMES * noise, note)
