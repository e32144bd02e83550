"""What is computed between an opening and the first question, and what becomes of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import pytest

from mediround import AsyncClient, errors
from serving.api.server import serving
from serving.domain import DecodedImage, Priority, SourceImage
from serving.errors import Unavailable
from serving.geometry import Geometry
from serving.ports import Prompt
from tests.service.harness import Stage, picture
from tests.service.harness import stage as build_stage

QUESTION = "Segment the liver."


@asynccontextmanager
async def service(
    executor: Executor, *, ahead: int = 8, concurrency: int = 8
) -> AsyncIterator[tuple[Stage, AsyncClient]]:
    stage = build_stage(executor, ahead=ahead, concurrency=concurrency, max_sessions=32)
    async with (
        serving(stage.service, observer=stage.observer) as server,
        AsyncClient(server.address, retries=0) as client,
    ):
        yield stage, client
    await stage.service._orchestrator.encode_on_open.close()
    assert not stage.vision.script.running["encode"]


def waiting_ahead(stage: Stage) -> int:
    """How much work for which nobody waits yet is at the gate."""
    return sum(ticket.ahead for ticket in stage.gate._waiting)


def outcomes(stage: Stage) -> dict[str, float]:
    samples = [
        sample
        for family in stage.registry.collect()
        for sample in family.samples
        if sample.name == "mediround_encodes_ahead_total"
    ]
    return {sample.labels["outcome"]: sample.value for sample in samples if sample.value}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # nothing signals it
            await asyncio.sleep(0.002)


async def test_the_first_question_finds_its_image_encoded_and_read(executor: Executor) -> None:
    async with service(executor) as (stage, client):
        session = await client.open(picture())
        await until(lambda: stage.vision.script.finished == ["encode"])
        await until(lambda: stage.language.script.finished == ["complete"])
        await until(lambda: not stage.gate._working)
        result = await session.ask(QUESTION)
        assert stage.vision.script.finished == ["encode", "decode"]
        assert result.cache.embedding_hit
        [beginning, prompt] = [p for p in stage.language.script.asked("complete") if isinstance(p, Prompt)]
        assert prompt.token_ids[: len(beginning.token_ids)] == beginning.token_ids
        assert result.cache.cached_tokens >= len(beginning.token_ids) - 1 + stage.manifest.tower.tokens
        assert outcomes(stage) == {"begun": 1, "used": 1}
    async with service(executor, ahead=0) as (stage, client):
        alone = await (await client.open(picture())).ask(QUESTION)
        assert not alone.cache.embedding_hit
        assert not outcomes(stage)
    assert np.array_equal(alone.mask, result.mask)


@contextmanager
def held_towers(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While the block runs the tower's pictures are not made; then ``work`` is done first."""
    made, free = Geometry.with_tower, threading.Event()

    def later(self: Geometry, image: DecodedImage) -> SourceImage:
        assert free.wait(10)
        work()
        return made(self, image)

    monkeypatch.setattr(Geometry, "with_tower", later)
    yield
    free.set()


async def test_the_encode_begins_beside_the_rest_of_the_opening(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(executor) as (stage, client):
        with held_towers(monkeypatch):
            opening = asyncio.ensure_future(client.open(picture()))
            await until(lambda: stage.vision.script.finished == ["encode"])
            assert not opening.done()
            assert not stage.language.script.calls  # which reads the tower's picture
        session = await opening
        await stage.language.script.reached("complete")
        assert (await session.ask(QUESTION)).cache.embedding_hit
        assert outcomes(stage) == {"begun": 1, "used": 1}


async def test_what_was_begun_for_an_opening_that_fails_stops(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise Unavailable("away")

    async with service(executor) as (stage, client):
        stage.vision.script.hold("encode")
        with held_towers(monkeypatch, fail):
            opening = asyncio.ensure_future(client.open(picture()))
            await stage.vision.script.reached("encode")
        with pytest.raises(errors.Unavailable):
            await opening
        await until(lambda: not stage.vision.script.running["encode"])
        await until(lambda: not stage.gate._working)
        assert outcomes(stage) == {"begun": 1, "wasted": 1}
        assert not stage.embeddings.stats.nbytes


async def test_a_question_joins_an_encode_that_has_begun(executor: Executor) -> None:
    async with service(executor) as (stage, client):
        stage.vision.script.hold("encode")
        session = await client.open(picture())
        await stage.vision.script.reached("encode")
        asked = asyncio.create_task(session.ask(QUESTION))
        await until(lambda: bool(outcomes(stage).get("used")))
        assert outcomes(stage) == {"begun": 1, "used": 1}
        stage.vision.script.let_go("encode")
        assert (await asked).index == 0
        assert len(stage.vision.script.asked("encode")) == 1


async def test_those_who_wait_for_an_encode_hold_no_place(executor: Executor) -> None:
    """Of two, the encode has one: a round on a known image has the other, however many questions have joined."""
    async with service(executor, concurrency=2) as (stage, client):
        known = await client.open(picture(seed=1))
        await known.ask(QUESTION)
        stage.vision.script.hold("encode")
        opened = [await client.open(picture()) for _ in range(3)]
        await stage.vision.script.reached("encode", 2)
        joined = [asyncio.create_task(session.ask(QUESTION)) for session in opened]
        await until(lambda: outcomes(stage).get("used") == 2)
        async with asyncio.timeout(10):
            assert (await known.ask(QUESTION)).index == 1
        assert not any(task.done() for task in joined)
        stage.vision.script.let_go("encode")
        assert [(await task).index for task in joined] == [0, 0, 0]
        assert len(stage.vision.script.asked("encode")) == 2


async def test_who_waits_keeps_no_encode_that_its_own_have_left(executor: Executor) -> None:
    """The question that waited is admitted to encode itself: nothing is encoded without a place for it."""
    async with service(executor, ahead=0) as (stage, client):
        stage.vision.script.hold("encode")
        one, other = await client.open(picture()), await client.open(picture())
        first = asyncio.create_task(one.ask(QUESTION))
        await stage.vision.script.reached("encode")
        second = asyncio.create_task(other.ask(QUESTION))
        await asyncio.sleep(0.05)
        assert len(stage.gate._working) == 1
        first.cancel()
        await stage.vision.script.reached("encode", 2)
        assert [ticket.encodes for ticket in stage.gate._working] == [True]
        assert stage.vision.script.running["encode"] == 1
        stage.vision.script.let_go("encode")
        result = await second
        assert not result.cache.embedding_hit
    async with service(executor) as (stage, client):
        stage.vision.script.hold("encode")
        session = await client.open(picture())
        await stage.vision.script.reached("encode")
        asked = asyncio.create_task(session.ask(QUESTION))
        await asyncio.sleep(0.2)
        stage.vision.script.let_go("encode")
        timings = (await asked).timings
        assert timings.encode > 0.1 > timings.queue  # it waited for its image, not for others
        assert timings.total >= timings.encode + timings.queue


async def test_no_image_is_kept_for_work_that_has_ended(executor: Executor) -> None:
    async with service(executor) as (stage, client):
        await client.open(picture())
        ahead = stage.service._orchestrator.encode_on_open
        await until(lambda: all(image.ended for image in ahead._images.values()))
        assert [image.session for image in ahead._images.values()] == [None]


async def test_a_session_that_closes_takes_its_encode_with_it(executor: Executor) -> None:
    async with service(executor) as (stage, client):
        stage.vision.script.hold("encode")
        one, other = await client.open(picture()), await client.open(picture())
        await stage.vision.script.reached("encode")
        await one.close()
        await asyncio.sleep(0.02)
        assert stage.vision.script.running["encode"] == 1  # the other is on the same image
        await other.close()
        await until(lambda: not stage.vision.script.running["encode"])
        assert outcomes(stage) == {"begun": 1, "wasted": 1}
        assert not stage.embeddings.stats.nbytes


async def test_batch_openings_encode_nothing_ahead(executor: Executor) -> None:
    async with service(executor) as (stage, client):
        await client.open(picture(), priority="batch")
        await asyncio.sleep(0.02)
        assert not stage.vision.script.calls
        assert not outcomes(stage)


async def test_rounds_go_first_and_a_question_does_not_wait_behind_its_own_image(executor: Executor) -> None:
    async with service(executor, concurrency=1) as (stage, client):
        stage.vision.script.hold("encode")
        first = await client.open(picture())
        await stage.vision.script.reached("encode")
        second = await client.open(picture(seed=1))  # waits at the gate
        asked = asyncio.create_task(second.ask(QUESTION))
        await until(lambda: stage.gate.stats(Priority.INTERACTIVE).waiting == 1)
        assert waiting_ahead(stage) == 2  # the first's pass, and the second's encode
        stage.vision.script.let_go("encode")
        assert (await asked).index == 0
        assert len(stage.vision.script.asked("encode")) == 2
        assert outcomes(stage) == {"begun": 1}
        assert (await first.ask(QUESTION)).index == 0
        assert outcomes(stage) == {"begun": 1, "used": 1}


async def test_what_fails_ahead_is_done_for_the_question(executor: Executor) -> None:
    async with service(executor) as (stage, client):
        stage.vision.script.fail_next("encode", Unavailable("away"))
        stage.language.script.fail_next("complete", Unavailable("away"))
        session = await client.open(picture())
        await until(lambda: outcomes(stage) == {"begun": 1, "wasted": 1})
        assert (await session.ask(QUESTION)).index == 0


async def test_images_that_nobody_asks_about_are_limited(executor: Executor) -> None:
    """While they are worked on; then the oldest gives way, so that one caller's take no other's turn."""
    async with service(executor, ahead=2) as (stage, client):
        stage.vision.script.hold("encode")
        sessions = [await client.open(picture(seed=seed)) for seed in range(4)]
        await stage.vision.script.reached("encode", 2)
        stage.vision.script.let_go("encode")
        ahead = stage.service._orchestrator.encode_on_open
        await until(lambda: all(image.ended for image in ahead._images.values()))
        assert outcomes(stage) == {"begun": 2}
        await client.open(picture(seed=5))
        await until(lambda: stage.vision.script.finished.count("encode") == 3)
        assert outcomes(stage) == {"begun": 3, "wasted": 1}
        assert (await sessions[0].ask(QUESTION)).cache.embedding_hit  # its embedding stayed
        assert (await sessions[1].ask(QUESTION)).cache.embedding_hit
        assert outcomes(stage) == {"begun": 3, "wasted": 1, "used": 1}


async def test_where_all_wait_the_oldest_gives_way_to_a_new_one(executor: Executor) -> None:
    async with service(executor, concurrency=1, ahead=2) as (stage, client):
        stage.vision.script.hold("encode")
        await client.open(picture())
        await stage.vision.script.reached("encode")
        second, third = await client.open(picture(seed=1)), await client.open(picture(seed=2))
        ahead = stage.service._orchestrator.encode_on_open
        waiting = {session_id for image in ahead._images.values() for _, session_id in image.owners}
        assert second.session_id not in waiting
        assert third.session_id in waiting
        assert outcomes(stage) == {"begun": 1}
        stage.vision.script.let_go("encode")


async def test_a_question_that_is_refused_leaves_its_image_to_be_encoded(executor: Executor) -> None:
    async with service(executor, concurrency=1) as (stage, client):
        stage.gate._expectations.encode.learn(100.0)  # longer than a person's question may wait
        stage.vision.script.hold("encode")
        await client.open(picture())
        await stage.vision.script.reached("encode")
        session = await client.open(picture(seed=1))
        await until(lambda: waiting_ahead(stage) == 2)
        with pytest.raises(errors.ResourceExhausted):
            await session.ask(QUESTION)
        stage.vision.script.let_go("encode")
        await until(lambda: stage.vision.script.finished.count("encode") == 2)
        await until(lambda: not stage.gate._working)
        assert (await session.ask(QUESTION)).cache.embedding_hit
        assert outcomes(stage) == {"begun": 2, "used": 1}


async def test_a_pass_that_still_waits_is_left_to_the_question(executor: Executor) -> None:
    """It would come after the question's own, and leave the engine's cache with the short beginning. Here it waits
    because the encode holds the one place of batch requests.
    """
    async with service(executor, concurrency=2) as (stage, client):
        stage.vision.script.hold("encode")
        session = await client.open(picture())
        await stage.vision.script.reached("encode")
        await until(lambda: waiting_ahead(stage) == 1)
        asked = asyncio.create_task(session.ask(QUESTION))
        await until(lambda: outcomes(stage) == {"begun": 1, "used": 1})
        stage.vision.script.let_go("encode")
        first = await asked
        await until(lambda: not stage.gate._working)
        second = await session.ask(QUESTION, refer_to=first)
        assert second.cache.cached_tokens == first.cache.prompt_tokens


async def test_an_encode_is_known_to_be_done_while_the_pass_goes_on(executor: Executor) -> None:
    async with service(executor) as (stage, client):
        stage.gate._expectations.encode.learn(100.0)
        stage.language.script.hold("complete")
        session = await client.open(picture())
        await stage.language.script.reached("complete")
        await until(lambda: stage.vision.script.finished == ["encode"])
        await until(lambda: stage.gate._expectations.encode.seconds < 100.0)
        await session.close()
        assert outcomes(stage) == {"begun": 1, "wasted": 1}


async def test_places_say_what_their_requests_still_do(executor: Executor) -> None:
    """Decoding takes no place to encode, and who found the image encoded has less to do than was expected."""
    seen = []
    async with service(executor, ahead=0, concurrency=1) as (stage, client):
        stage.vision.script.hold("decode")
        sessions = [await client.open(picture(seed=seed)) for seed in (1, 0, 0)]
        tasks = [asyncio.create_task(session.ask(QUESTION)) for session in sessions]
        await until(lambda: stage.gate.stats(Priority.INTERACTIVE).waiting == 2)
        for count in (1, 2, 3):
            await stage.vision.script.reached("decode", count)
            [ticket] = stage.gate._working
            seen.append((ticket.encodes, ticket.cost > ticket.cost_of_rest))
            stage.vision.script.let_go("decode")
            stage.vision.script.hold("decode")
        stage.vision.script.let_go("decode")
        await asyncio.gather(*tasks)
    assert seen == [(False, True), (False, True), (False, False)]


async def test_an_opening_that_stalls_holds_no_place(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encode's place is given back although the session, which the language pass needs, is not there."""
    async with service(executor, concurrency=2) as (stage, client):
        with held_towers(monkeypatch):
            opening = asyncio.ensure_future(client.open(picture()))
            await until(lambda: stage.vision.script.finished == ["encode"])
            await until(lambda: not stage.gate._working)
        await opening
        await stage.language.script.reached("complete")
