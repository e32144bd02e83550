"""Replays recorded dialogues through the serving pieces and says how far the results are apart.

Runs the very classes that serve: prompt form, geometry, orchestrator with its waves, ONNX engines. Does not
know how recordings lie on disk, nor prints anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import numpy as np

from exporters.golden import IMAGE_PLACEHOLDER, RecordedDialogue, RecordedRound
from serving.bundle import IMAGE_ENCODER, TOKENIZER, Bundle
from serving.dialogue import PromptForm
from serving.domain import F32, Correction, CorrectionPolicy, Reference, RoundResult, SegFeature, Session
from serving.geometry import Geometry
from serving.llm.onnx import OnnxLanguage
from serving.orchestrator import Orchestrator
from serving.ports import Completion, DecodedMasks, EmbeddingLease, Prompt
from serving.stores.embeddings import MemoryEmbeddings
from serving.stores.sessions import MemorySessions
from serving.tokenizer import Tokenizer
from serving.vision.onnx import OnnxVision

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
class Report:
    model: str
    model_digest: str
    tolerance: Tolerance
    rounds: tuple[RoundParity, ...]
    passed: bool

    def json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(slots=True)
class _Recorder:
    """Engines that remember what passed through them, in the order of the rounds."""

    language: OnnxLanguage
    vision: OnnxVision
    description: str = "recorder"
    raw: list[SegFeature] = field(default_factory=list)
    decoded: list[tuple[F32, F32]] = field(default_factory=list)
    """Feature (256,) and logits (L, L) of each round."""

    async def complete(self, prompt: Prompt) -> Completion:
        completion = await self.language.complete(prompt)
        self.raw += completion.features
        return completion

    async def decode(self, lease: EmbeddingLease, features: F32, thresholds: F32) -> DecodedMasks:
        decoded = await self.vision.decode(lease, features, thresholds)
        self.decoded += zip(decoded.features, decoded.logits, strict=True)
        return decoded


class _RecordedLanguage:
    def __init__(self, recorder: _Recorder) -> None:
        self.description, self.complete, self.close = "recorded", recorder.complete, recorder.language.close


class _RecordedVision:
    def __init__(self, recorder: _Recorder) -> None:
        self.description, self.decode, self.close = "recorded", recorder.decode, recorder.vision.close
        self.encode = recorder.vision.encode


async def replay(
    bundle: Bundle, dialogues: Iterable[RecordedDialogue], tolerance: Tolerance, threads: int
) -> Report:
    """Every dialogue with policy ``referenced`` and the answers given, references from predicted masks."""
    rounds: list[RoundParity] = []
    with ThreadPoolExecutor(1) as executor:
        language, vision = OnnxLanguage(bundle, threads, 1 << 28), OnnxVision(bundle, threads)
        for dialogue in dialogues:
            recorder = _Recorder(language, vision)
            orchestrator = _orchestrator(bundle, recorder, executor)
            rounds += await _dialogue(orchestrator, recorder, dialogue, tolerance)
        await language.close()
        await vision.close()
    manifest = bundle.manifest
    passed = bool(rounds) and all(parity.passed for parity in rounds)
    return Report(f"{manifest.name} {manifest.version}", bundle.digest, tolerance, tuple(rounds), passed)


async def _dialogue(
    orchestrator: Orchestrator, recorder: _Recorder, dialogue: RecordedDialogue, tolerance: Tolerance
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
        feature, logits = recorder.decoded[result.index]
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
                    raw_feature_diff=_optional(recorder.raw[result.index].vector, expected.raw_feature),
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
    return RoundParity(**(asdict(parity) | {"passed": passed}))


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


def _orchestrator(bundle: Bundle, recorder: _Recorder, executor: ThreadPoolExecutor) -> Orchestrator:
    manifest = bundle.manifest
    shape = manifest.image.embedding
    return Orchestrator(
        language=_RecordedLanguage(recorder),
        vision=_RecordedVision(recorder),
        embeddings=MemoryEmbeddings(1 << 26, shape, manifest.image.embedding_dtype),
        sessions=MemorySessions(4, 1 << 30, 3600, time.monotonic),
        form=PromptForm(manifest, Tokenizer(bundle.path(TOKENIZER), manifest.tokens)),
        geometry=Geometry(manifest.image, manifest.tower, manifest.files[IMAGE_ENCODER]),
        pixel_executor=executor,
        max_rounds=64,
    )
