"""Images that nobody has asked about yet: what they may hold, and what is told of the work on them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager

import pytest

from serving.domain import U8, AnswerMode, Correction, CorrectionPolicy, Question
from serving.history.record import Session
from serving.history.rounds import RoundResult
from serving.ports import Prompt
from serving.sessions.encode_on_open import EncodeOnOpen
from serving.sessions.keeper import NewSession
from serving.stores.sessions import MemorySessions
from tests.service.harness import picture
from tests.service.harness import stage as build_stage

CALLER = "anna"
MOST = 8
"""Images ahead: half of what the harness holds of embeddings."""


class Played:
    """A service without a client, whose clock is set."""

    def __init__(self, executor: Executor, *, sessions: int = 64, concurrency: int = 8) -> None:
        self.now = 0.0
        store = MemorySessions(sessions, 1 << 30, 60.0, lambda: self.now)
        self.stage = build_stage(executor, sessions=store, ahead=MOST, concurrency=concurrency)

    @property
    def ahead(self) -> EncodeOnOpen:
        return self.stage.service._orchestrator.encode_on_open

    async def open(self, rgb: U8) -> Session:
        target = self.stage.service._orchestrator
        with self.ahead.opening(CALLER, wanted=True) as opening:
            image = await target.keeper.prepare(rgb, None, opening.decoded)
            session = await target.keeper.open(NewSession(CALLER), image)
            opening.opened(session)
        return session

    async def ask(self, session: Session) -> RoundResult:
        question = Question("Segment the liver.", None, AnswerMode.FORCED, "It is [SEG].")
        correction = Correction(CorrectionPolicy.ALWAYS, 0.6)
        return await self.stage.service._orchestrator.ask(session.session_id, CALLER, question, correction)

    async def close(self, session: Session) -> None:
        await self.stage.service._orchestrator.close(session.session_id, CALLER)

    @property
    def waiting(self) -> int:
        """Work at the gate."""
        return len(self.stage.gate._waiting)

    async def idle(self) -> None:
        await until(lambda: not self.stage.gate._working and not self.waiting)

    def value(self, name: str, **labels: str) -> float:
        found = self.stage.registry.get_sample_value(f"mediround_{name}", labels)
        assert found is not None
        return found


@asynccontextmanager
async def played(executor: Executor, **how: int) -> AsyncIterator[Played]:
    made = Played(executor, **how)
    yield made
    await made.ahead.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # nothing signals it
            await asyncio.sleep(0.002)


async def freed(*held: weakref.ref[object]) -> None:
    """Return when nothing holds any of them."""
    await until(lambda: gc.collect() >= 0 and all(each() is None for each in held))


@pytest.mark.parametrize("seconds", [2.0, 61.0], ids=["gave way", "expired"])
async def test_no_image_waits_for_a_session_that_is_gone(executor: Executor, seconds: float) -> None:
    """``--limits.max-session-bytes`` bounds what is held, however sessions end."""
    async with played(executor, sessions=2, concurrency=1) as its:
        its.stage.vision.script.hold("encode")
        held = [weakref.ref((await its.open(picture(seed=seed))).image.pixels) for seed in range(2)]
        await its.stage.vision.script.reached("encode")
        assert its.waiting == 2  # the first's pass, and the second's encode
        its.now += seconds
        for seed in (2, 3):
            await its.open(picture(seed=seed))
        assert its.stage.sessions.count == len(its.ahead._images) == 2
        await freed(*held)
        await its.stage.vision.script.reached("encode", 2)


async def test_no_image_waits_whose_own_session_is_gone(executor: Executor) -> None:
    """Another has the same image, with pixels of its own: those alone are counted, so those alone may be held."""
    async with played(executor, concurrency=1) as its:
        its.stage.vision.script.hold("encode")
        await its.open(picture(seed=1))
        await its.stage.vision.script.reached("encode")
        first, second = await its.open(picture()), await its.open(picture())
        assert first.image.embedding_key == second.image.embedding_key
        held = weakref.ref(first.image.pixels)
        await its.close(first)
        del first
        await freed(held)
        its.stage.vision.script.let_go("encode")
        await its.idle()
        assert not (await its.ask(second)).cache.embedding_hit


async def test_no_image_waits_to_be_read_whose_own_session_is_gone(executor: Executor) -> None:
    """Its encode goes on for another that has the same image."""
    async with played(executor, concurrency=2) as its:
        its.stage.vision.script.hold("encode")
        first, second = await its.open(picture()), await its.open(picture())
        await its.stage.vision.script.reached("encode")
        await until(lambda: its.waiting == 1)
        held = weakref.ref(first.image.tower.pixels)
        await its.close(first)
        del first
        await freed(held)
        assert its.stage.vision.script.running["encode"] == 1
        its.stage.vision.script.let_go("encode")
        await its.idle()
        assert not its.stage.language.script.calls
        assert (await its.ask(second)).cache.embedding_hit


@pytest.mark.parametrize("closed", [False, True])
async def test_unasked_images_leave_dialogues_half_of_the_embeddings(executor: Executor, *, closed: bool) -> None:
    async with played(executor) as its:
        assert its.stage.embeddings.capacity == 2 * MOST
        asked = [await its.open(picture(seed=seed)) for seed in range(MOST)]
        for session in asked:
            await its.ask(session)
        for seed in range(100, 100 + 2 * MOST):
            session = await its.open(picture(seed=seed))
            await its.idle()
            if closed:
                await its.close(session)
        assert all([(await its.ask(session)).cache.embedding_hit for session in asked])
        assert its.stage.embeddings.stats.evictions == MOST


async def test_what_is_done_ahead_is_told_apart_and_counted(executor: Executor) -> None:
    """The stage ``encode`` is what callers were told; tokens and passes are all that the engine had."""
    async with played(executor) as its:
        language, vision = its.stage.language.script, its.stage.vision.script
        found = await its.open(picture())
        await its.idle()
        assert (await its.ask(found)).timings.encode == 0
        vision.hold("encode")
        joined = await its.open(picture(seed=1))
        await until(lambda: len(language.finished) == 3)
        asked = asyncio.create_task(its.ask(joined))
        await asyncio.sleep(0.02)
        vision.let_go("encode")
        seconds = (await asked).timings.encode
        assert its.value("stage_seconds_count", stage="encode_ahead") == 2
        assert its.value("stage_seconds_count", stage="encode") == 1
        assert its.value("stage_seconds_sum", stage="encode") == pytest.approx(seconds)
        prompts = [each for each in language.asked("complete") if isinstance(each, Prompt)]
        assert its.value("language_passes_total") == len(prompts) == 4
        tokens = [its.value("prompt_tokens_total", source=source) for source in ("computed", "cached")]
        assert sum(tokens) == sum(len(each.token_ids) - 1 + its.stage.manifest.tower.tokens for each in prompts)
        assert tokens[1] > 0
