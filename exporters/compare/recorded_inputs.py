"""What a bundle's image half is asked in dialogues: images, and features with thresholds from its language half.

Knows how to have a dialogue answered and what to remember of it. Does not compare anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mediround.medseg import parse, read_items
from serving.bundle import Bundle
from serving.domain import F32, U8, AnswerMode, Correction, CorrectionPolicy, EncoderImage, Question
from serving.offline import offline
from serving.ports import DecodedMasks, EmbeddingLease, LanguageEngine
from serving.runtime.record import RuntimeRecord
from serving.vision.onnx import OnnxVision

CALLER = "exporters"
MADE_UP = 2
"""Dialogues about made-up images."""
ANSWER = "It is [SEG]."
"""There: whatever template the model was trained on, nothing is there to be named."""
StartLanguage = Callable[[], Awaitable[LanguageEngine]]

_SHADES = (40, 90, 140, 200)


@dataclass(frozen=True, slots=True)
class InputDialogue:
    rgb: U8
    """(H, W, 3)."""
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class DecodeInputs:
    """One image, and every batch of features that was decoded on it."""

    image: EncoderImage
    batches: list[tuple[F32, F32]] = field(default_factory=list)
    """Features (K, 256) and thresholds (K,)."""


def made_up() -> Iterator[InputDialogue]:
    """Discs of several shades in noise, wide and tall; the second question refers to the first."""
    for seed in range(MADE_UP):
        draw = np.random.default_rng(seed)
        height, width = (384, 512) if seed % 2 else (512, 384)
        grey = draw.normal(20, 6, (height, width))
        rows, columns = np.ogrid[:height, :width]
        for shade in _SHADES:
            row, column, radius = (
                draw.uniform(0.2, 0.8) * height,
                draw.uniform(0.2, 0.8) * width,
                draw.uniform(30, 90),
            )
            grey[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] += shade
        rgb = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., np.newaxis], 3, axis=2)
        words = ("Segment this.", "Segment the same structure on the other side.", "Where is the bright one?")
        asked = (Question(text, k - 1 if k else None, AnswerMode.FORCED, ANSWER) for k, text in enumerate(words))
        yield InputDialogue(rgb, tuple(asked))


def of_data_set(data: Path, root: Path, most: int | None = None) -> Iterator[InputDialogue]:
    """Dialogues of a data set in the MR-MedSeg form, the first ``most`` or all, with the answers that it gives.

    Raises:
        DataError: the file is not in the form.
    """
    for item in read_items(data)[:most]:
        dialogue = parse(item)
        with Image.open(root / dialogue.image) as picture:
            rgb = np.asarray(picture.convert("RGB"))
        asked = (Question(r.question, r.refer_to, AnswerMode.FORCED, r.answer) for r in dialogue.rounds)
        yield InputDialogue(rgb, tuple(asked))


def ask(
    bundle: Bundle, dialogues: Sequence[InputDialogue], threads: int, start: StartLanguage | None = None
) -> list[DecodeInputs]:
    """Have every dialogue answered by the bundle's own engines; what its image half was asked, an image each.

    ``start``: of the language half; by default, its graphs.
    """
    return asyncio.run(_ask(bundle, dialogues, threads, start))


async def _ask(
    bundle: Bundle, dialogues: Sequence[InputDialogue], threads: int, start: StartLanguage | None
) -> list[DecodeInputs]:
    vision = _Remembering(OnnxVision(bundle, threads))
    correction = Correction(CorrectionPolicy.ALWAYS, bundle.manifest.judge.threshold)
    language = await start() if start else None
    async with offline(bundle, threads, language=language, vision=vision) as orchestrator:
        for dialogue in dialogues:
            session = await orchestrator.open(CALLER, dialogue.rgb)
            async for _ in orchestrator.segment(session.session_id, CALLER, dialogue.questions, correction):
                pass
            await orchestrator.close(session.session_id, CALLER)
    return list(vision.asked.values())


class _Remembering:
    """A VisionEngine that remembers what it was asked."""

    def __init__(self, engine: OnnxVision) -> None:
        self.description, self.close, self._engine = engine.description, engine.close, engine
        self.encoder, self.decoder = engine.encoder, engine.decoder
        self.asked: dict[str, DecodeInputs] = {}

    async def encode(self, image: EncoderImage, lease: EmbeddingLease) -> RuntimeRecord:
        self.asked.setdefault(image.key, DecodeInputs(image))
        return await self._engine.encode(image, lease)

    async def decode(self, lease: EmbeddingLease, features: F32, thresholds: F32) -> DecodedMasks:
        self.asked[lease.key].batches.append((features.copy(), thresholds.copy()))
        return await self._engine.decode(lease, features, thresholds)
