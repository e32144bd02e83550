"""The orchestrator without a server: what it is made of by default, and whose engines it closes."""

from __future__ import annotations

import numpy as np
import pytest

from serving.bundle import Bundle
from serving.domain import AnswerMode, Correction, CorrectionPolicy, Priority, Question
from serving.errors import Unavailable
from serving.offline import offline
from tests.scripted.language import ScriptedLanguage
from tests.scripted.vision import ScriptedVision

ALWAYS = Correction(CorrectionPolicy.ALWAYS, 0.6)
IMAGE = np.random.default_rng(0).integers(1, 256, (48, 64, 3), np.uint8)
QUESTIONS = [Question("Where?", None, AnswerMode.FORCED), Question("And in it?", 0, AnswerMode.FORCED)]


async def test_a_bundle_is_all_it_needs(random_bundle: Bundle) -> None:
    async with offline(random_bundle, threads=1) as orchestrator:
        session = await orchestrator.open("batch", IMAGE)
        results = orchestrator.segment(session.session_id, "batch", QUESTIONS, ALWAYS, Priority.BATCH)
        found = [result async for result in results]
    assert [(result.index, result.cache.wave) for result in found] == [(0, 0), (1, 1)]
    assert all(r.segmentation is not None and r.segmentation.mask.size == (48, 64) for r in found)
    assert all(result.answer == "It is [SEG]." for result in found)


async def test_engines_that_it_is_given_answer_and_are_closed(random_bundle: Bundle) -> None:
    language, vision = ScriptedLanguage(random_bundle.manifest), ScriptedVision(random_bundle.manifest)
    async with offline(random_bundle, threads=1, language=language, vision=vision) as orchestrator:
        session = await orchestrator.open("batch", IMAGE)
        await orchestrator.ask(session.session_id, "batch", QUESTIONS[0], ALWAYS)
        assert len(language.script.asked("complete")) == len(vision.script.asked("encode")) == 1
    with pytest.raises(Unavailable):
        await orchestrator.ask(session.session_id, "batch", QUESTIONS[0], ALWAYS)
    assert language._closed
    assert vision._closed
