"""A small model of a session: what its owner was told of each round, in the order of the rounds.

Knows masks by their digests. Does not know how sessions are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from serving.domain import KnownRound
from serving.history.rounds import Round, RoundResult


@dataclass(frozen=True)
class ModelRound:
    """A round, as its owner knows it."""

    round_id: str
    question: str
    answer: str
    made: bytes
    """Digest of the mask that it began with."""
    mask: bytes
    """Of the one that it has now."""
    used: tuple[str, bytes] | None
    """Source and digest of the mask that it is about."""
    score: float | None
    corrected: bool
    seeded: bool

    @classmethod
    def of(cls, made: Round) -> ModelRound:
        """All scripted rounds have masks."""
        assert made.segmentation is not None
        assert made.mask is not None
        referred = None if made.used is None else made.used.referred
        return cls(
            made.round_id,
            made.question,
            made.answer,
            made.segmentation.mask.digest,
            made.mask.digest,
            None if referred is None else (referred.source.name, referred.mask.digest),
            made.segmentation.score,
            made.segmentation.corrected,
            made.seeded,
        )

    @property
    def known(self) -> KnownRound:
        """As its owner refers to it."""
        return KnownRound(self.round_id, self.mask)

    @property
    def source(self) -> str:
        """What it is to the round that refers to it."""
        return "ROUND" if self.mask == self.made else "AMENDED"

    def amended(self, digest: bytes) -> ModelRound:
        return replace(self, mask=digest)


@dataclass(eq=False)
class ModelSession:
    """A session that is to be there."""

    id: str
    caller: str
    keep: bool
    image: int
    rounds: list[ModelRound] = field(default_factory=list)


def told(result: RoundResult) -> tuple[int, ModelRound]:
    return result.index, ModelRound.of(result.round)


def without_id(answer: tuple[int, ModelRound]) -> tuple[int, ModelRound]:
    """Ids are drawn."""
    return answer[0], replace(answer[1], round_id="")
