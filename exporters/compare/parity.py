"""Replays recorded dialogues through the serving pieces and says how far the results are apart.

All dialogues at once, on the engines that it is given (``exporters.compare.replay``). Does not know how recordings
lie on disk, nor prints anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np

from exporters.compare.golden import RecordedDialogue, RecordedRound
from exporters.compare.replay import ReplayedDialogue, Replayer
from serving.bundle import Bundle
from serving.domain import F32, Reference
from serving.history.rounds import RoundResult
from serving.ports import EmbeddingStore, LanguageEngine, VisionEngine


@dataclass(frozen=True, slots=True)
class ParityTolerance:
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
    tolerance: ParityTolerance
    rounds: tuple[RoundParity, ...]
    passed: bool

    def json(self) -> dict[str, object]:
        return asdict(self)


async def replay(  # noqa: PLR0917  # the fifth and sixth are given by name
    bundle: Bundle,
    language: LanguageEngine,
    vision: VisionEngine,
    dialogues: Iterable[RecordedDialogue],
    tolerance: ParityTolerance,
    embeddings: EmbeddingStore | None = None,
) -> ParityReport:
    """Every dialogue with policy ``referenced`` and the answers given, references from predicted masks.

    ``embeddings``: by default each dialogue has a store of its own.
    """
    with ThreadPoolExecutor(1) as pixels:
        replayer = Replayer.of(bundle, language, vision, pixels, embeddings)

        async def one(dialogue: RecordedDialogue) -> list[RoundParity]:
            replayed = await replayer.dialogue(dialogue.rgb, dialogue.questions)
            return _compared(dialogue, replayed, tolerance)

        found = await asyncio.gather(*(one(dialogue) for dialogue in dialogues))
    rounds = tuple(parity for parities in found for parity in parities)
    manifest = bundle.manifest
    passed = bool(rounds) and all(parity.passed for parity in rounds)
    engines = language.description, vision.description
    return ParityReport(f"{manifest.name} {manifest.version}", bundle.digest, engines, tolerance, rounds, passed)


def _compared(
    dialogue: RecordedDialogue, replayed: ReplayedDialogue, tolerance: ParityTolerance
) -> list[RoundParity]:
    ids_equal = replayed.token_ids == dialogue.token_ids
    parities = []
    for index, (expected, found) in enumerate(zip(dialogue.rounds, replayed.rounds, strict=True)):
        full, segmentation = replayed.full_logits(index), found.result.segmentation
        flipped = np.abs(full[np.greater(full, 0) != expected.mask])
        parities.append(
            _judged(
                RoundParity(
                    dialogue=dialogue.index,
                    round=index,
                    token_ids_equal=ids_equal,
                    reference_equal=_reference_equal(expected, replayed.references.get(index)),
                    feature_diff=_largest(found.feature, expected.feature),
                    raw_feature_diff=_optional(found.raw_feature, expected.raw_feature),
                    score_diff=_score_diff(expected, found.result),
                    corrected=bool(segmentation and segmentation.corrected),
                    flipped_pixels=int(flipped.size),
                    largest_flipped_logit=float(flipped.max(initial=0.0)),
                    passed=False,
                ),
                tolerance,
            )
        )
    return parities


def _judged(parity: RoundParity, tolerance: ParityTolerance) -> RoundParity:
    passed = (
        parity.token_ids_equal
        and parity.reference_equal is not False
        and max(parity.feature_diff, parity.raw_feature_diff or 0.0) <= tolerance.feature
        and (parity.score_diff or 0.0) <= tolerance.score
        and parity.largest_flipped_logit < tolerance.logit
    )
    return replace(parity, passed=passed)


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
