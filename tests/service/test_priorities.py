"""The queue as callers meet it: who goes first, who is refused, and who leaves while waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager

import pytest

from mediround import AsyncClient, Client, DeadlineExceeded, InvalidArgument, ResourceExhausted, Round
from mediround.aio import AsyncSession
from serving.api.server import serving
from serving.domain import Priority
from serving.ports import Prompt
from tests.service.harness import CharacterTokenizer, Stage, picture
from tests.service.harness import stage as build_stage


@asynccontextmanager
async def crowd(
    executor: Executor, sessions: int, *, max_wait: float = 600.0
) -> AsyncIterator[tuple[Stage, list[AsyncSession]]]:
    """One place, which is taken: a round that the language half holds. The first session's is in it."""
    stage = build_stage(executor, concurrency=1, max_wait=max_wait, max_sessions=32, max_concurrent_rounds=32)
    async with (
        serving(stage.service, observer=stage.observer) as server,
        AsyncClient(server.address, retries=0) as client,
    ):
        opened = [await client.open(picture(seed=seed)) for seed in range(sessions)]
        stage.language.script.hold("complete")
        working = asyncio.create_task(opened[0].ask("Segment the liver."))
        await stage.language.script.reached("complete")
        yield stage, opened
        await working
        assert sum(stage.gate.stats(each).waiting for each in Priority) == 0


async def waiting(stage: Stage, count: int) -> None:
    async with asyncio.timeout(10):
        while sum(stage.gate.stats(each).waiting for each in Priority) != count:  # noqa: ASYNC110  # it does not signal
            await asyncio.sleep(0.002)


def answered(stage: Stage, names: list[str]) -> list[str]:
    """In the order in which the language half was asked: a caller may hear of it in another."""
    prompts = [prompt for prompt in stage.language.script.asked("complete") if isinstance(prompt, Prompt)]
    words = [
        CharacterTokenizer().decode(tuple(t for t in prompt.token_ids if 16 <= t < 2**21)) for prompt in prompts
    ]
    return list(dict.fromkeys(name for text in words for name in names if name in text))


async def test_interactive_requests_go_first(executor: Executor) -> None:
    async def dialogue(session: AsyncSession) -> None:
        rounds = [Round("Segment the spleen."), Round("It.", refer_to=0)]
        assert [r.index async for r in session.segment(rounds, priority="batch")] == [0, 1]

    async with crowd(executor, 4) as (stage, sessions):
        tasks: list[asyncio.Task[object]] = [asyncio.create_task(dialogue(sessions[1]))]
        await waiting(stage, 1)
        tasks.append(asyncio.create_task(sessions[2].ask("Segment the kidney.", priority="batch")))
        await waiting(stage, 2)
        tasks.append(asyncio.create_task(sessions[3].ask("Segment the aorta.", priority="interactive")))
        await waiting(stage, 3)
        assert stage.gate.stats(Priority.BATCH).waiting == 2
        stage.language.script.let_go("complete")
        await asyncio.gather(*tasks)
    assert answered(stage, ["spleen", "kidney", "aorta"]) == ["aorta", "spleen", "kidney"]
    assert stage.language.script.most_running["complete"] == 1


async def test_what_would_wait_too_long_is_refused_and_told_when_to_come(executor: Executor) -> None:
    """The work of a request is what was measured: encode, pass and mask of a scripted engine."""
    async with crowd(executor, 8, max_wait=0.001) as (stage, sessions):
        with pytest.raises(ResourceExhausted) as caught:
            await sessions[1].ask("Segment the kidney.")
        assert 0.1 <= caught.value.retry_after <= 60.0
        assert "expected wait" in str(caught.value)
        assert len(stage.language.script.asked("complete")) == 1
        stage.language.script.let_go("complete")
    assert stage.shed == {"queue": 1}


async def test_a_deadline_that_cannot_be_kept_is_refused_before_it_passes(executor: Executor) -> None:
    async with crowd(executor, 2) as (stage, sessions):
        with pytest.raises(ResourceExhausted, match="deadline"):
            await sessions[1].ask("Segment the kidney.", timeout=0.3)  # a round is guessed to take longer
        stage.language.script.let_go("complete")
    assert stage.shed == {"deadline": 1}


async def test_a_deadline_that_passes_in_the_queue(executor: Executor) -> None:
    async with crowd(executor, 3) as (stage, sessions):
        stage.gate._expectations.encode.learn(0.01)  # so that there is hope
        stage.gate._expectations.language_pass.learn(0.01)
        late = asyncio.create_task(sessions[1].ask("Segment the kidney.", timeout=1.5))
        await waiting(stage, 1)
        stage.gate._waiting[0].since -= 60.0
        assert stage.gate.stats(Priority.INTERACTIVE).age > 60.0
        with pytest.raises(DeadlineExceeded):
            await late
        await waiting(stage, 0)
        stage.language.script.let_go("complete")
        assert (await sessions[1].ask("Segment the kidney.")).index == 0  # the session is as it was


async def test_who_gives_up_leaves_the_queue(executor: Executor) -> None:
    async with crowd(executor, 3) as (stage, sessions):
        asked = asyncio.create_task(sessions[1].ask("Segment the kidney."))
        patient = asyncio.create_task(sessions[2].ask("Segment the spleen."))
        await waiting(stage, 2)
        asked.cancel()
        await waiting(stage, 1)
        stage.language.script.let_go("complete")
        assert (await patient).index == 0
    assert len(stage.language.script.asked("complete")) == 2


async def test_a_sessions_own_requests_hold_one_place(executor: Executor) -> None:
    """Those that wait for their session do not keep others out."""
    stage = build_stage(executor, concurrency=2)
    script = stage.language.script
    async with serving(stage.service) as server, AsyncClient(server.address) as client:
        one, other = await client.open(picture()), await client.open(picture(seed=1))
        script.hold("complete")
        many = [asyncio.create_task(one.ask(f"Segment {number}.")) for number in range(4)]
        await script.reached("complete")
        alone = asyncio.create_task(other.ask("Segment the liver."))
        async with asyncio.timeout(10):
            await script.reached("complete", 2)
        script.let_go("complete")
        assert (await alone).index == 0
        assert sorted([(await task).index for task in many]) == [0, 1, 2, 3]


async def test_the_wait_is_part_of_what_the_caller_is_told(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("serving.runtime.stopwatch.perf_counter", lambda: now[0])
    async with crowd(executor, 2) as (stage, sessions):
        asked = asyncio.create_task(sessions[1].ask("Segment the kidney."))
        await waiting(stage, 1)
        now[0] = 7.0
        stage.language.script.let_go("complete")
        timings = (await asked).timings
        assert (timings.queue, timings.total) == (7.0, 7.0)


async def test_an_image_that_is_held_costs_less(executor: Executor) -> None:
    stage = build_stage(executor, concurrency=1)
    async with serving(stage.service) as server, AsyncClient(server.address) as client:
        async with client.open(picture()) as session:
            await session.ask("Segment the liver.")
        stage.gate._expectations.encode.learn(50.0)
        known, new, first = [await client.open(picture(seed=seed)) for seed in range(3)]
        stage.language.script.hold("complete")
        tasks = [asyncio.create_task(first.ask("Segment the liver."))]
        await stage.language.script.reached("complete", 2)
        for session, encodes in ((known, False), (new, True)):
            before = stage.gate.stats(Priority.INTERACTIVE).waiting_cost
            tasks.append(asyncio.create_task(session.ask("Segment the liver.")))
            await waiting(stage, len(tasks) - 1)
            added = stage.gate.stats(Priority.INTERACTIVE).waiting_cost - before
            assert (added > 0.5) is encodes  # seconds; a round on a known image takes milliseconds
        stage.language.script.let_go("complete")
        await asyncio.gather(*tasks)


async def test_a_priority_that_is_none(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        with pytest.raises(InvalidArgument, match="priority"):
            await session.ask("Segment the liver.", priority="urgent")
        with pytest.raises(InvalidArgument, match="priority"):
            await client.open(picture(), priority="urgent")


async def test_the_blocking_client_has_priorities(executor: Executor) -> None:
    stage = build_stage(executor)
    async with serving(stage.service) as server:

        def blocking() -> list[int]:
            with Client(server.address, timeout=20) as client, client.open(picture()) as session:
                session.ask("Segment the liver.", priority="batch")
                return [result.index for result in session.segment([Round("a"), Round("b")], priority="batch")]

        assert await asyncio.to_thread(blocking) == [1, 2]
