"""A small model of a session: what its owner was told of each round, in the order of the rounds.

Knows masks by their digests. Does not know how sessions are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mediround import masks
from mediround.v1 import segmentation_pb2 as pb
from tests.unit.schedules.calls import Reply

NO_MASK = b""


class Used(NamedTuple):
    """The mask that a round is about."""

    source: int
    mask: bytes
    round_id: str
    origin: str


@dataclass(frozen=True, slots=True)
class ModelRound:
    """A round, as its owner knows it. Masks are digests."""

    round_id: str
    question: str
    answer: str
    made: bytes
    """The mask that it began with."""
    mask: bytes
    """The one that it has now."""
    seed_origin: str = ""
    origin: str = ""
    """Of the mask that it has now."""
    engine: str = ""
    used: Used | None = None
    score: float = 0.0
    probability: float = 0.0
    corrected: bool = False
    seeded: bool = False

    @classmethod
    def answered(cls, question: pb.Question, of: pb.RoundResult) -> ModelRound:
        if of.HasField("mask"):
            bits = masks.decode(of.mask.data, pb.MASK_ENCODING_COCO_RLE, of.mask.height, of.mask.width)
            assert masks.digest(bits) == of.mask_digest
        return cls(
            of.round_id,
            question.text,
            of.answer,
            of.mask_digest,
            of.mask_digest,
            question.seed_origin,
            question.seed_origin,
            of.engine_digest,
            _used(of),
            of.score,
            of.seg_probability,
            of.corrected,
            of.seeded,
        )

    def equals(self, of: pb.RoundSummary) -> bool:
        """What the server says of it now."""
        told = ModelRound(
            of.round_id,
            of.question,
            of.answer,
            (of.original if of.amended else of.mask).mask_digest,
            of.mask.mask_digest,
            self.seed_origin,
            of.origin,
            of.engine_digest,
            _used(of),
            of.score,
            of.seg_probability,
            of.corrected,
            of.seeded,
        )
        return told == self and of.amended == self.amended

    @property
    def amended(self) -> bool:
        return self.mask != self.made

    @property
    def held(self) -> set[bytes]:
        """All masks that it holds."""
        return {self.made, self.mask, self.used.mask if self.used else NO_MASK} - {NO_MASK}

    def amended_by(self, mask: bytes, origin: str) -> ModelRound:
        """By its own mask, it is amended no longer."""
        return replace(self, mask=mask, origin=self.seed_origin if mask == self.made else origin)

    def reference(self, index: int, *, named: bool) -> pb.RoundReference:
        """As its owner refers to it; else by index and mask alone."""
        return pb.RoundReference(round=index, round_id=self.round_id if named else "", mask_digest=self.mask)

    @property
    def as_used(self) -> Used:
        source = pb.REFERENCE_SOURCE_AMENDED if self.amended else pb.REFERENCE_SOURCE_ROUND
        return Used(source, self.mask, self.round_id, self.origin)

    @property
    def unnamed(self) -> ModelRound:
        """Ids are drawn: those of equal rounds differ."""
        return replace(self, round_id="", used=self.used and self.used._replace(round_id=""))


@dataclass(eq=False, slots=True)
class ModelSession:
    """A session that is to be there."""

    id: str
    caller: str
    keep: bool
    image: int
    opened: float = 0.0
    rounds: list[ModelRound] = field(default_factory=list)
    undone: list[tuple[int, ModelRound]] = field(default_factory=list)
    """By their indices."""

    @property
    def held(self) -> set[bytes]:
        return {each for of in self.rounds for each in of.held}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request for rounds ended: what was answered, then perhaps a refusal."""

    rounds: list[ModelRound]
    refusal: tuple[str, str, str] | None

    @classmethod
    def of(cls, questions: Sequence[pb.Question], first: int, reply: Reply) -> Outcome:
        """``first``: the index of its first round."""
        results = [each.result for each in reply.messages if each.HasField("result")]
        assert [each.round for each in results] == list(range(first, first + len(results)))
        rounds = [ModelRound.answered(*each) for each in zip(questions, results, strict=False)]
        return cls(rounds, reply.refusal.said if reply.refusal else None)

    @property
    def unnamed(self) -> Outcome:
        return Outcome([each.unnamed for each in self.rounds], self.refusal)


def _used(of: pb.RoundResult | pb.RoundSummary) -> Used | None:
    if not of.HasField("reference"):
        return None
    used = of.reference
    return Used(used.source, used.mask_digest, used.round_id, used.origin)
