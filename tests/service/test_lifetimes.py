"""Order, deadlines, cancellation, admission: calls that meet, and calls that end early."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Executor
from contextlib import aclosing

import grpc
import pytest

from mediround import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Round,
    ServerFault,
)
from mediround.failures import from_failure
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.api.server import Server, serving
from tests.scripted.script import Script
from tests.service.harness import Stage, picture
from tests.service.harness import stage as build_stage


async def idle(script: Script, operation: str) -> None:
    """Wait until nobody runs ``operation``."""
    async with asyncio.timeout(10):
        while script.running[operation]:  # noqa: ASYNC110  # the script counts; it does not signal
            await asyncio.sleep(0.005)


async def arrived(stage: Stage, rounds: int) -> None:
    """Wait until the server holds as many requests for rounds."""
    async with asyncio.timeout(10):
        while stage.service._rounds.in_use < rounds:  # noqa: ASYNC110  # permits are counted; they do not signal
            await asyncio.sleep(0.002)


async def test_rounds_asked_at_once_are_answered_in_order_and_say_how_long_they_waited(
    client: AsyncClient, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, script = [0.0], stage.language.script
    monkeypatch.setattr("serving.runtime.stopwatch.perf_counter", lambda: now[0])
    async with client.open(picture()) as session:
        script.hold("complete")
        waiting = []
        for number in range(4):
            waiting.append(asyncio.create_task(session.ask(f"Segment {number}.")))
            await arrived(stage, number + 1)
        await script.reached("complete")
        assert script.running["complete"] == 1
        now[0] = 5.0
        script.let_go("complete")
        results = await asyncio.gather(*waiting)
    assert [result.index for result in results] == [0, 1, 2, 3]
    assert script.most_running["complete"] == 1
    assert [result.timings.queue for result in results] == [0.0, 5.0, 5.0, 5.0]
    assert [result.timings.language for result in results] == [5.0, 0.0, 0.0, 0.0]


async def test_rounds_of_different_sessions_interleave(client: AsyncClient, stage: Stage) -> None:
    script = stage.language.script
    script.hold("complete")
    async with client.open(picture()) as one, client.open(picture(seed=1)) as other:
        waiting = [asyncio.create_task(session.ask("Segment the liver.")) for session in (one, other)]
        async with asyncio.timeout(10):
            await script.reached("complete", 2)
        script.let_go("complete")
        assert [(await task).index for task in waiting] == [0, 0]
    assert script.most_running["complete"] == 2


@pytest.mark.parametrize("operation", ["complete", "decode"])
async def test_a_deadline_that_passes_within_a_round(client: AsyncClient, stage: Stage, operation: str) -> None:
    script = stage.language.script if operation == "complete" else stage.vision.script
    async with client.open(picture()) as session:
        first = await session.ask("Segment the liver.")
        script.hold(operation)
        with pytest.raises(DeadlineExceeded):
            await session.ask("Segment the tumor in it.", refer_to=first, timeout=0.3)
        await idle(script, operation)
        script.let_go(operation)
        second = await session.ask("Segment the tumor in it.", refer_to=first)
    assert (first.index, second.index) == (0, 1)
    assert script.finished.count(operation) == 2


async def test_a_deadline_while_waiting_for_an_earlier_round(client: AsyncClient, stage: Stage) -> None:
    script = stage.language.script
    async with client.open(picture()) as session:
        script.hold("complete")
        first = asyncio.create_task(session.ask("Segment the liver."))
        await script.reached("complete")
        with pytest.raises(DeadlineExceeded):
            await session.ask("Segment the kidney.", timeout=0.2)
        script.let_go("complete")
        assert (await first).index == 0
        assert (await session.ask("Segment the spleen.")).index == 1
    assert len(script.asked("complete")) == 2


async def test_a_cancelled_task_stops_the_work(client: AsyncClient, stage: Stage) -> None:
    script = stage.language.script
    async with client.open(picture()) as session:
        script.hold("complete")
        asked = asyncio.create_task(session.ask("Segment the liver."))
        await script.reached("complete")
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await idle(script, "complete")
        script.let_go("complete")
        assert (await session.ask("Segment the liver.")).index == 0
    assert stage.embeddings.stats.leased == 0


async def test_a_dialogue_given_up_after_its_first_result(client: AsyncClient, stage: Stage) -> None:
    script = stage.language.script
    async with client.open(picture()) as session:
        chain = [Round("Segment the liver."), Round("Segment the tumor.", refer_to=0)]
        results = session.segment(chain)
        first = await anext(results)
        script.hold("complete")
        await results.aclose()
        await idle(script, "complete")
        script.let_go("complete")
        after = await session.ask("Segment the tumor.", refer_to=first)
    # The second round had perhaps begun; whether it was finished shows in the next index alone.
    assert after.index in {1, 2}
    assert stage.embeddings.stats.leased == 0


async def test_an_iterator_left_by_the_blocking_client(server: Server, stage: Stage) -> None:
    script = stage.language.script
    held, left = threading.Event(), threading.Event()

    def blocking() -> None:
        with Client(server.address, timeout=20) as client, client.open(picture()) as session:
            results = session.segment([Round("Segment the liver."), Round("Segment the tumor.", refer_to=0)])
            next(results)
            held.set()
            results.close()
            left.set()
            session.ask("Segment the liver.")

    await asyncio.to_thread(blocking)
    await idle(script, "complete")
    assert left.is_set()
    assert stage.embeddings.stats.leased == 0


async def test_closing_a_client_ends_its_calls(server: Server, stage: Stage) -> None:
    script = stage.language.script
    client = AsyncClient(server.address)
    session = await client.open(picture())
    script.hold("complete")
    asked = asyncio.create_task(session.ask("Segment the liver."))
    await script.reached("complete")
    await client.close()
    with pytest.raises(Cancelled):
        await asked
    await idle(script, "complete")


async def test_closing_a_blocking_client_ends_its_calls(server: Server, stage: Stage) -> None:
    script = stage.language.script
    client = Client(server.address)
    session = await asyncio.to_thread(client.open, picture())
    script.hold("complete")
    asked = asyncio.create_task(asyncio.to_thread(session.ask, "Segment the liver."))
    await script.reached("complete")
    client.close()
    with pytest.raises(Cancelled):
        await asked
    await idle(script, "complete")


async def test_a_session_closed_while_a_round_waits(client: AsyncClient, stage: Stage) -> None:
    script = stage.language.script
    session = await client.open(picture())
    script.hold("complete")
    first = asyncio.create_task(session.ask("Segment the liver."))
    await script.reached("complete")
    second = asyncio.create_task(session.ask("Segment the kidney."))
    await asyncio.sleep(0.05)
    await session.close()
    script.let_go("complete")
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert all(type(outcome).__module__.startswith("mediround") for outcome in outcomes)
    assert len(script.asked("complete")) == 1
    assert (await client.describe()).model_name == "made-up"


async def test_no_more_rounds_than_admitted(executor: Executor) -> None:
    small = build_stage(executor, max_concurrent_rounds=2)
    script = small.language.script
    async with serving(small.service) as server, AsyncClient(server.address) as client:
        sessions = [await client.open(picture(seed=seed)) for seed in range(3)]
        script.hold("complete")
        admitted = [asyncio.create_task(session.ask("Segment the liver.")) for session in sessions[:2]]
        await script.reached("complete", 2)
        with pytest.raises(ResourceExhausted) as caught:
            await sessions[2].ask("Segment the liver.")
        assert caught.value.retry_after == 1.0
        script.let_go("complete")
        assert [(await task).index for task in admitted] == [0, 0]
        assert (await sessions[2].ask("Segment the liver.")).index == 0


async def test_permits_come_back_however_a_call_ends(executor: Executor) -> None:
    single = build_stage(executor, max_concurrent_rounds=1, max_concurrent_uploads=1)
    script = single.language.script
    async with serving(single.service) as server, AsyncClient(server.address) as client:
        with pytest.raises(InvalidArgument):
            await client.open(b"no image")
        session = await client.open(picture())
        script.hold("complete")
        with pytest.raises(DeadlineExceeded):
            await session.ask("Segment the liver.", timeout=0.2)
        await idle(script, "complete")
        script.let_go("complete")
        script.fail_next("complete", ValueError())
        with pytest.raises(ServerFault):
            await session.ask("Segment the liver.")
        async with aclosing(session.segment([Round("Segment the liver."), Round("It.", refer_to=0)])) as results:
            await anext(results)
        await idle(script, "complete")
        assert (await session.ask("Segment the liver.", timeout=5)).index in {1, 2}


async def test_a_reader_that_stops_reading_gives_the_session_back(
    client: AsyncClient, stub: SegmentationServiceStub, stage: Stage
) -> None:
    """The bare stub, read once and then cancelled: the generator behind the call must not linger."""
    session = await client.open(picture())
    questions = [
        pb.Question(text="Segment the liver."),
        pb.Question(text="It.", refer_to=pb.RoundReference(round=0)),
    ]
    call = stub.SegmentDialogue(pb.SegmentDialogueRequest(session_id=session.session_id, questions=questions))
    stage.language.script.delay_s = 0.05
    await call.read()
    call.cancel()
    result = await session.ask("Segment the kidney.", timeout=5)
    assert result.index in {1, 2}
    assert stage.embeddings.stats.leased == 0


async def test_an_upload_that_is_given_up(stub: SegmentationServiceStub, stage: Stage) -> None:
    async def unfinished():  # and writes nothing at the deadline, where grpc.aio may lose the status
        yield pb.OpenSessionRequest(header=pb.ImageHeader(encoded=pb.EncodedImage()))
        yield pb.OpenSessionRequest(chunk=b"x")
        await asyncio.Event().wait()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.OpenSession(unfinished(), timeout=0.2)
    assert isinstance(from_failure(caught.value), DeadlineExceeded)
    await asyncio.sleep(0.1)
    assert stage.sessions.count == 0
