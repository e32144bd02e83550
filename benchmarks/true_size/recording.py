"""One dialogue as it was served: what the language half was asked and what it answered, round by round.

Knows the file's form: NumPy arrays by name. Does not know engines, or what is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.bundle import Manifest
from serving.domain import F32
from serving.ports import Completion, Prompt

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recording:
    """A dialogue of R rounds, the last of which was answered in the model's own words."""

    token_ids: I64
    """(T,): the last prompt's, and the words generated after it; the image's placeholder once."""
    pictures: F32
    """(1 + X, 3, P, P): normalised pixels of the image, then of each crop."""
    boxes: F32
    """(X, 4)"""
    rows: I64
    """(R,): indices into ``token_ids``, where each round's feature was read."""
    words: int
    """Of ``token_ids``, those generated: they are its last."""
    features: F32
    """(R, 256): as the language half gave them, before correction."""
    scores: F32
    """(R,): as the server told them."""

    def save(self, path: Path) -> None:
        np.savez(path, **{name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def load(cls, path: Path) -> Recording:
        with np.load(path) as stored:
            return cls(**{name: stored[name] for name in cls.__slots__} | {"words": int(stored["words"])})


def recorded(
    passes: Sequence[tuple[Prompt, Completion]], scores: Sequence[float], manifest: Manifest
) -> Recording:
    """One pass a round. Raises ValueError unless each prompt begins with the one before it."""
    prompts, completions = zip(*passes, strict=True)
    last, words = prompts[-1], completions[-1].token_ids
    for prompt in prompts:
        shown = len(prompt.references)
        if prompt.token_ids != last.token_ids[: len(prompt.token_ids)] or prompt.image.digest != last.image.digest:
            raise ValueError("a prompt does not begin with the prompt of the round before")
        if [each.crop.digest for each in prompt.references] != [e.crop.digest for e in last.references[:shown]]:
            raise ValueError("a prompt shows other references than the one before")
    pictures = [last.image, *(reference.crop for reference in last.references)]
    rows, features = zip(*(_read(*each) for each in passes), strict=True)
    return Recording(
        token_ids=np.array([*last.token_ids, *words], np.int64),
        pictures=np.stack([picture.normalised(manifest.tower) for picture in pictures]),
        boxes=np.array([reference.box for reference in last.references], np.float32).reshape(-1, 4),
        rows=np.array(rows, np.int64),
        words=len(words),
        features=np.stack(features),
        scores=np.array(scores, np.float32),
    )


def _read(prompt: Prompt, completion: Completion) -> tuple[int, F32]:
    """Where a round's feature was read, and the feature: at the words' end where they were generated."""
    if completion.generated is not None:
        return len(prompt.token_ids) - 1 + len(completion.token_ids), completion.generated.vector
    return prompt.feature_positions[-1], completion.features[-1].vector
