"""The language server through its wire: limits, cancellation, deadlines, drain, and an engine that dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving import request_context
from serving.domain import TowerImage
from serving.errors import DeadlineExceeded, EngineFault, Exhausted, InvalidInput, Unavailable
from serving.llm.messages import BEGUN, complete_request
from serving.llm.remote import RemoteLanguage
from serving.llm.server import CONTRACT, LanguageServer
from serving.llm.v1 import language_pb2 as pb
from serving.llm.v1.language_pb2_grpc import LanguageServiceStub
from serving.ports import Prompt
from tests.llm.harness import BUNDLE, RecordingService, serving
from tests.scripted.language import ScriptedLanguage
from tests.scripted.prompts import draft

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
MAX_CALLS = 4


def prompt(dialogue: str = "dialogue") -> Prompt:
    return draft(BUNDLE.manifest).say(5).refer(5).say(6).read().prompt(dialogue)


async def health_of(address: str, service: str = "") -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)).status


@pytest.fixture
def engine() -> ScriptedLanguage:
    return ScriptedLanguage(BUNDLE.manifest)


@pytest.fixture
def service(engine: ScriptedLanguage) -> RecordingService:
    return RecordingService(engine, max_calls=MAX_CALLS)


@pytest.fixture
async def server(service: RecordingService) -> AsyncIterator[LanguageServer]:
    async with serving(service) as running:
        yield running


@pytest.fixture
async def remote(server: LanguageServer) -> AsyncIterator[RemoteLanguage]:
    engine = RemoteLanguage([server.address], BUNDLE, max_references=8)
    yield engine
    await engine.close()


async def test_it_describes_itself(server: LanguageServer, remote: RemoteLanguage) -> None:
    await remote.reached()
    assert remote.description == "grpc/scripted/hash"
    assert [await health_of(server.address, name) for name in ("", CONTRACT.full_name)] == [SERVING] * 2


async def test_a_full_queue_says_when_to_come_again(
    engine: ScriptedLanguage, service: RecordingService, remote: RemoteLanguage
) -> None:
    engine.script.hold("complete")
    waiting = [asyncio.create_task(remote.complete(prompt(f"{i}"))) for i in range(MAX_CALLS)]
    await engine.script.reached("complete", MAX_CALLS)
    with pytest.raises(Exhausted) as refused:
        await remote.complete(prompt("one more"))
    assert refused.value.retry_after == 1.0
    engine.script.let_go("complete")
    await asyncio.gather(*waiting)
    assert service.in_flight == 0
    assert (await remote.complete(prompt("one more"))).features


async def test_a_storm_of_cancelled_calls_leaves_nothing(engine: ScriptedLanguage, server: LanguageServer) -> None:
    service = RecordingService(engine, max_calls=100)
    async with serving(service) as roomy:
        remote = RemoteLanguage([roomy.address], BUNDLE, max_references=8)
        engine.script.hold("complete")
        storm = [asyncio.create_task(remote.complete(prompt(f"{i}"))) for i in range(100)]
        await engine.script.reached("complete", 100)
        assert service.in_flight == 100
        for call in storm:
            call.cancel()
        ended = await asyncio.gather(*storm, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)
        async with asyncio.timeout(10):
            while service.in_flight or engine.script.running["complete"]:  # noqa: ASYNC110  # counts do not signal
                await asyncio.sleep(0.01)
        engine.script.let_go("complete")
        assert (await remote.complete(prompt())).features
        await remote.close()


async def test_a_storm_cancelled_at_any_moment(
    engine: ScriptedLanguage, service: RecordingService, remote: RemoteLanguage
) -> None:
    engine.script.delay_s = 0.005
    await remote.reached()
    storm = [asyncio.create_task(remote.complete(prompt(f"{i % 7}"))) for i in range(100)]
    for number, call in enumerate(storm):
        asyncio.get_running_loop().call_later(0.0003 * number, call.cancel)
    await asyncio.gather(*storm, return_exceptions=True)
    async with asyncio.timeout(10):
        while service.in_flight or engine.script.running["complete"]:  # noqa: ASYNC110  # counts do not signal
            await asyncio.sleep(0.01)
    assert (await remote.complete(prompt())).features


async def test_a_deadline_is_passed_down(
    engine: ScriptedLanguage, service: RecordingService, remote: RemoteLanguage
) -> None:
    await remote.reached()
    engine.script.hold("complete")
    request_context.set_deadline(0.3)
    with pytest.raises(DeadlineExceeded):
        await remote.complete(prompt())
    request_context.set_deadline(None)
    async with asyncio.timeout(10):
        while service.in_flight:  # noqa: ASYNC110  # counts do not signal
            await asyncio.sleep(0.01)
    assert engine.script.finished == []


async def test_prompts_that_do_not_fit(server: LanguageServer, remote: RemoteLanguage) -> None:
    """From a client that checks nothing: typed, and the server goes on."""
    whole = prompt()
    side = BUNDLE.manifest.tower.side
    larger = np.zeros((side + 1, side, 3), np.uint8)
    wrong = [
        (replace(whole, token_ids=whole.token_ids[:-1] + (5,) * 400), "prompt.token_ids"),
        (replace(whole, max_new_tokens=400), "prompt.token_ids"),
        (replace(whole, references=()), "prompt.token_ids"),
        (replace(whole, references=whole.references * 2), "prompt.token_ids"),
        (replace(whole, references=whole.references * 9), "prompt.references"),
        (replace(whole, image=TowerImage(whole.image.digest, larger)), "prompt.image.rgb"),
        (replace(whole, image=TowerImage("0" * 64, whole.image.pixels)), "prompt.image.sha256"),
        (replace(whole, feature_positions=(99,)), "prompt.feature_positions"),
    ]
    async with grpc.aio.insecure_channel(server.address) as channel:
        for each, field in wrong:
            request = complete_request(each, BUNDLE.digest, set())
            with pytest.raises(grpc.aio.AioRpcError, match=f"{field}: ") as refused:
                await LanguageServiceStub(channel).Complete(request, timeout=20)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(InvalidInput):
        await remote.complete(replace(whole, references=()))
    assert (await remote.complete(whole)).features


async def test_a_message_above_the_limit(server: LanguageServer) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = LanguageServiceStub(channel)
        huge = pb.CompleteRequest(dialogue="d" * (4 << 20))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Complete(huge, timeout=20)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.Describe(pb.DescribeRequest(), timeout=20)).bundle_digest == BUNDLE.digest


async def test_prompts_made_for_another_bundle(server: LanguageServer, engine: ScriptedLanguage) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=r"bundle d+, not e+") as refused:
            await LanguageServiceStub(channel).Complete(complete_request(prompt(), "e" * 64, set()), timeout=20)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert BEGUN not in dict(refused.value.initial_metadata())
    assert engine.script.calls == []


async def test_faults_of_the_engine_keep_their_incident(
    engine: ScriptedLanguage, remote: RemoteLanguage, caplog: pytest.LogCaptureFixture
) -> None:
    engine.script.fail_next("complete", ValueError("SECRET"))
    with pytest.raises(EngineFault, match=r"INTERNAL: internal error; incident [0-9a-f-]{32,36}") as fault:
        await remote.complete(prompt())
    assert str(fault.value).rpartition(" ")[2] in caplog.text
    assert "SECRET" not in caplog.text
    assert (await remote.complete(prompt())).features


async def test_a_drain_lets_calls_finish_and_refuses_new_ones(
    engine: ScriptedLanguage, service: RecordingService
) -> None:
    server = LanguageServer(service, "127.0.0.1:0")
    await server.start()
    await server.ready()
    remote = RemoteLanguage([server.address], BUNDLE, max_references=8)
    engine.script.hold("complete")
    asked = asyncio.create_task(remote.complete(prompt()))
    await engine.script.reached("complete")
    draining = asyncio.create_task(server.drain(20))
    await asyncio.sleep(0.2)
    with pytest.raises(Unavailable):
        await remote.complete(prompt("late"))
    engine.script.let_go("complete")
    assert (await asked).features
    async with asyncio.timeout(5):
        await draining
    await remote.close()


async def until(event: asyncio.Event) -> None:
    await event.wait()


async def test_a_dead_engine(
    engine: ScriptedLanguage, service: RecordingService, server: LanguageServer, remote: RemoteLanguage
) -> None:
    """In-flight calls do not wait for an engine that will not answer; health says so."""
    dead = asyncio.Event()
    outliving = asyncio.create_task(server.outlive(until(dead)))
    engine.script.hold("complete")
    asked = asyncio.create_task(remote.complete(prompt()))
    await engine.script.reached("complete")
    dead.set()
    async with asyncio.timeout(3):
        with pytest.raises(Unavailable) as lost:
            await asked
        await outliving
    assert lost.value.retry_after == 5.0
    assert await health_of(server.address) == NOT_SERVING
    with pytest.raises(Unavailable):
        await remote.complete(prompt())
    assert service.in_flight == 0
    assert len(engine.script.asked("complete")) == 1
