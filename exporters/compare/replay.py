"""A dialogue through the pieces that serve: what each of its rounds computed, on engines that are given.

Runs serving's own orchestrator, prompt form and geometry. Does not know recordings or differences
(``exporters.compare.parity``, ``exporters.compare.regression``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Self

from exporters.compare.golden import IMAGE_PLACEHOLDER
from serving.bundle import Bundle
from serving.domain import F32, U8, Correction, CorrectionPolicy, Question, Reference, SourceImage
from serving.geometry import Geometry
from serving.history.rounds import RoundResult
from serving.offline import compose
from serving.ports import (
    Completion,
    DecodedMasks,
    EmbeddingLease,
    EmbeddingStore,
    LanguageEngine,
    Prompt,
    VisionEngine,
)
from serving.prompt import PromptTemplate

_CALLER = "replay"


@dataclass(frozen=True, slots=True)
class ReplayedRound:
    result: RoundResult
    raw_feature: F32
    """(256,), as the language half gave it."""
    feature: F32
    """(256,), as decoded: after correction."""
    logits: F32
    """(L, L), of the padded square."""


@dataclass(frozen=True, slots=True)
class ReplayedDialogue:
    token_ids: tuple[int, ...]
    """Of the whole dialogue; ``IMAGE_PLACEHOLDER`` marks the image."""
    rounds: tuple[ReplayedRound, ...]
    references: Mapping[int, Reference]
    """What was shown of each round that a later one refers to, by the index of the round referred to."""
    geometry: Geometry
    image: SourceImage

    def full_logits(self, index: int) -> F32:
        """(H, W), of the image's own size; the mask is where they are above 0."""
        return self.geometry.full_logits(self.rounds[index].logits, self.image)


@dataclass(frozen=True, slots=True)
class Replayer:
    """Answers dialogues on engines that are given."""

    form: PromptTemplate
    geometry: Geometry
    language: LanguageEngine
    vision: VisionEngine
    pixels: Executor
    embeddings: EmbeddingStore | None = None
    """None: each dialogue has a store of its own."""

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        language: LanguageEngine,
        vision: VisionEngine,
        pixels: Executor,
        embeddings: EmbeddingStore | None,
    ) -> Self:
        return cls(PromptTemplate.of(bundle), Geometry.of(bundle), language, vision, pixels, embeddings)

    async def dialogue(self, rgb: U8, questions: Sequence[Question]) -> ReplayedDialogue:
        """Answer forced questions about an image with policy ``referenced``, references from predicted masks.

        Args:
            rgb: uint8 (H, W, 3).

        Raises:
            ServingError: the bundle cannot answer this dialogue; for example it is too long.
        """
        read, seen = _RecordedLanguage(self.language), _RecordedVision(self.vision)
        orchestrator = compose(self.form, self.geometry, read, seen, self.pixels, embeddings=self.embeddings)
        session = await orchestrator.open(_CALLER, rgb)
        correction = Correction(CorrectionPolicy.REFERENCED, self.form.manifest.judge.threshold)
        replies = orchestrator.segment(session.session_id, _CALLER, questions, correction)
        results = [result async for result in replies]
        finished = await orchestrator.keeper.read(session.session_id, _CALLER)
        ids = [token for answered in finished.record.rounds for token in answered.token_ids]
        image = self.form.manifest.tokens.image
        rounds = tuple(
            ReplayedRound(result, raw, feature, logits)
            for result, raw, (feature, logits) in zip(results, read.features, seen.decoded, strict=True)
        )
        return ReplayedDialogue(
            token_ids=tuple(IMAGE_PLACEHOLDER if token == image else token for token in ids),
            rounds=rounds,
            references={result.reference.round: result.reference for result in results if result.reference},
            geometry=self.geometry,
            image=session.image,
        )


class _RecordedLanguage:
    """The language engine, remembering raw features in the order of the rounds."""

    def __init__(self, engine: LanguageEngine) -> None:
        self.description, self.close, self._engine = engine.description, engine.close, engine
        self.runtimes = engine.runtimes
        self.features: list[F32] = []

    async def complete(self, prompt: Prompt) -> Completion:
        completion = await self._engine.complete(prompt)
        self.features += [feature.vector for feature in completion.features]
        return completion


class _RecordedVision:
    """The vision engine, remembering each round's feature as decoded (256,) and its logits (L, L)."""

    def __init__(self, engine: VisionEngine) -> None:
        self.description, self.encode, self.close, self._engine = "", engine.encode, engine.close, engine
        self.encoder, self.decoder = engine.encoder, engine.decoder
        self.decoded: list[tuple[F32, F32]] = []

    async def decode(self, lease: EmbeddingLease, features: F32, thresholds: F32) -> DecodedMasks:
        decoded = await self._engine.decode(lease, features, thresholds)
        self.decoded += zip(decoded.features, decoded.logits, strict=True)
        return decoded
