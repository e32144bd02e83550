"""How far results move with what else runs in the batch: features, scores, and masks.

The judge's threshold is a discontinuity: a score that lies near it may be corrected in one batch and not in
another. Knows both runs' features and the bundle's decoder. Does not know how the features came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.language.dialogues import BenchmarkDialogue
from serving.bundle import Bundle
from serving.domain import F32
from serving.geometry import Geometry
from serving.ports import DecodedMasks
from serving.stores.embeddings import MemoryEmbeddings
from serving.vision.onnx import OnnxVision

NEAR = 0.01
"""Scores this close to the threshold may fall on either side of it."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Of all rounds of all dialogues, in order."""

    features: F32
    """(N, 256), raw."""
    scores: F32
    corrected: np.ndarray[tuple[int], np.dtype[np.bool_]]
    masks: np.ndarray[tuple[int, int, int], np.dtype[np.bool_]]
    """(N, L, L)"""


@dataclass(frozen=True, slots=True)
class Moved:
    """From one run to the other; largest and mean."""

    feature: tuple[float, float]
    score: tuple[float, float]
    iou: tuple[float, float]
    """Smallest and mean, of masks that are not empty in both."""
    corrections: int
    """Rounds that one run corrects and the other does not."""
    near: float
    """Share of the first run's scores near the threshold."""
    rounds: int


async def decode(bundle: Bundle, dialogues: Sequence[BenchmarkDialogue], features: Sequence[F32]) -> Decoded:
    """``features``: for each dialogue (rounds, 256). Correction as a live session has it."""
    threshold = bundle.manifest.judge.threshold
    vision, geometry = OnnxVision(bundle, threads=2), Geometry.of(bundle)
    embeddings = MemoryEmbeddings.of(bundle.manifest.image, 1 << 27)

    async def one(dialogue: BenchmarkDialogue, raw: F32) -> DecodedMasks:
        encoder = geometry.encoder_image(dialogue.image)
        lease = await embeddings.acquire(encoder.key, lambda held: vision.encode(encoder, held))
        decoded = await vision.decode(lease, raw, np.full(len(raw), threshold, np.float32))
        embeddings.release(lease)
        return decoded

    parts = [await one(dialogue, raw) for dialogue, raw in zip(dialogues, features, strict=True)]
    await vision.close()
    return Decoded(
        np.concatenate(list(features)),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.corrected for part in parts]),
        np.concatenate([part.logits for part in parts]) > 0,
    )


def moved(first: Decoded, second: Decoded, threshold: float) -> Moved:
    features, scores = np.abs(first.features - second.features), np.abs(first.scores - second.scores)
    both = (first.masks & second.masks).sum((1, 2))
    either = (first.masks | second.masks).sum((1, 2))
    overlap = both[either > 0] / either[either > 0]
    return Moved(
        feature=(float(features.max()), float(features.mean())),
        score=(float(scores.max()), float(scores.mean())),
        iou=(float(overlap.min(initial=1.0)), float(overlap.mean()) if overlap.size else 1.0),
        corrections=int((first.corrected != second.corrected).sum()),
        near=float((np.abs(first.scores - threshold) <= NEAR).mean()),
        rounds=len(first.scores),
    )
