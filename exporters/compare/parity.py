"""Replays recorded dialogues through the serving pieces and says how far the results are apart.

Runs the very classes that serve: prompt form, geometry, orchestrator with its waves, and the engines that it is
given, all dialogues at once. Does not know how recordings lie on disk, nor prints anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np

from exporters.compare.golden import IMAGE_PLACEHOLDER, RecordedDialogue, RecordedRound
from serving.bundle import Bundle
from serving.domain import F32, Correction, CorrectionPolicy, Reference, RoundResult, Session
from serving.geometry import Geometry
from serving.offline import compose
from serving.orchestrator import Orchestrator
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

CALLER = "parity"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest differences that pass. ``logit``: a pixel may flip when its own logit is closer to 0."""

    feature: float = 1e-4
    score: float = 1e-4
    logit: float = 1e-4


@dataclass(frozen=True, slots=True)
class RoundParity:
    dialogue: int
    round: int
    token_ids_equal: bool
    reference_equal: bool | None
    """Crop rectangle and box of this round's mask, exactly; None where nothing refers to it."""
    feature_diff: float
    raw_feature_diff: float | None
    score_diff: float | None
    corrected: bool
    flipped_pixels: int
    largest_flipped_logit: float
    passed: bool


@dataclass(frozen=True, slots=True)
class ParityReport:
    model: str
    model_digest: str
    engines: tuple[str, str]
    """What ran the language half and the vision half."""
    tolerance: Tolerance
    rounds: tuple[RoundParity, ...]
    passed: bool

    def json(self) -> dict[str, object]:
        return asdict(self)


class _RecordedLanguage:
    """The language engine, remembering raw features in the order of the rounds."""

    def __init__(self, engine: LanguageEngine) -> None:
        self.description, self.close, self._engine = engine.description, engine.close, engine
        self.features: list[F32] = []

    async def complete(self, prompt: Prompt) -> Completion:
        completion = await self._engine.complete(prompt)
        self.features += [feature.vector for feature in completion.features]
        return completion


class _RecordedVision:
    """The vision engine, remembering each round's feature as decoded (256,) and its logits (L, L)."""

    def __init__(self, engine: VisionEngine) -> None:
        self.description, self.encode, self.close, self._engine = "", engine.encode, engine.close, engine
        self.decoded: list[tuple[F32, F32]] = []

    async def decode(self, lease: EmbeddingLease, features: F32, thresholds: F32) -> DecodedMasks:
        decoded = await self._engine.decode(lease, features, thresholds)
        self.decoded += zip(decoded.features, decoded.logits, strict=True)
        return decoded


async def replay(  # noqa: PLR0917  # the fifth and sixth are given by name
    bundle: Bundle,
    language: LanguageEngine,
    vision: VisionEngine,
    dialogues: Iterable[RecordedDialogue],
    tolerance: Tolerance,
    embeddings: EmbeddingStore | None = None,
) -> ParityReport:
    """Every dialogue with policy ``referenced`` and the answers given, references from predicted masks.

    ``embeddings``: by default each dialogue has a store of its own.
    """
    form, geometry = PromptTemplate.of(bundle), Geometry.of(bundle)
    with ThreadPoolExecutor(1) as executor:

        async def one(dialogue: RecordedDialogue) -> list[RoundParity]:
            recorded = _RecordedLanguage(language), _RecordedVision(vision)
            orchestrator = compose(form, geometry, *recorded, executor, embeddings=embeddings)
            return await _dialogue(orchestrator, *recorded, dialogue, tolerance)

        found = await asyncio.gather(*(one(dialogue) for dialogue in dialogues))
    rounds = tuple(parity for parities in found for parity in parities)
    manifest = bundle.manifest
    passed = bool(rounds) and all(parity.passed for parity in rounds)
    engines = language.description, vision.description
    return ParityReport(f"{manifest.name} {manifest.version}", bundle.digest, engines, tolerance, rounds, passed)


async def _dialogue(
    orchestrator: Orchestrator,
    language: _RecordedLanguage,
    vision: _RecordedVision,
    dialogue: RecordedDialogue,
    tolerance: Tolerance,
) -> list[RoundParity]:
    session = await orchestrator.open(CALLER, dialogue.rgb)
    correction = Correction(CorrectionPolicy.REFERENCED, orchestrator.form.manifest.judge.threshold)
    replies = orchestrator.segment(session.session_id, CALLER, dialogue.questions, correction)
    results = [result async for result in replies]
    async with orchestrator.sessions.exclusive(session.session_id, CALLER) as finished:
        ids_equal = _token_ids(finished, orchestrator.form.manifest.tokens.image) == dialogue.token_ids
    shown = {r.reference.round: r.reference for r in results if r.reference is not None}
    parities = []
    for expected, result in zip(dialogue.rounds, results, strict=True):
        feature, logits = vision.decoded[result.index]
        full = orchestrator.geometry.full_logits(logits, session.image)
        flipped = np.abs(full[np.greater(full, 0) != expected.mask])
        parities.append(
            _judged(
                RoundParity(
                    dialogue=dialogue.index,
                    round=result.index,
                    token_ids_equal=ids_equal,
                    reference_equal=_reference_equal(expected, shown.get(result.index)),
                    feature_diff=_largest(feature, expected.feature),
                    raw_feature_diff=_optional(language.features[result.index], expected.raw_feature),
                    score_diff=_score_diff(expected, result),
                    corrected=bool(result.segmentation and result.segmentation.corrected),
                    flipped_pixels=int(flipped.size),
                    largest_flipped_logit=float(flipped.max(initial=0.0)),
                    passed=False,
                ),
                tolerance,
            )
        )
    return parities


def _judged(parity: RoundParity, tolerance: Tolerance) -> RoundParity:
    passed = (
        parity.token_ids_equal
        and parity.reference_equal is not False
        and max(parity.feature_diff, parity.raw_feature_diff or 0.0) <= tolerance.feature
        and (parity.score_diff or 0.0) <= tolerance.score
        and parity.largest_flipped_logit < tolerance.logit
    )
    return replace(parity, passed=passed)


def _token_ids(session: Session, image: int) -> tuple[int, ...]:
    ids = (token for finished in session.rounds for token in finished.token_ids)
    return tuple(IMAGE_PLACEHOLDER if token == image else token for token in ids)


def _reference_equal(expected: RecordedRound, shown: Reference | None) -> bool | None:
    if expected.box is None or expected.crop is None or shown is None:
        return None if expected.box is None and shown is None else False
    cut = shown.crop_rectangle
    crop = (cut.y_min, cut.x_min, cut.y_max + 1, cut.x_max + 1)
    return crop == expected.crop and np.array_equal(shown.box, expected.box.astype(np.float32))


def _score_diff(expected: RecordedRound, result: RoundResult) -> float | None:
    if expected.score is None:
        return None
    score = result.segmentation.score if result.segmentation else None
    return float("inf") if score is None else abs(score - expected.score)


def _optional(actual: F32, expected: F32 | None) -> float | None:
    return None if expected is None else _largest(actual, expected)


def _largest(actual: Sequence[float] | F32, expected: F32) -> float:
    return float(np.abs(np.asarray(actual) - expected).max())
