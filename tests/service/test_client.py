"""What both clients promise of any call: typed errors, retries, ids, and what is closed. Against the real
service.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import threading
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from loadtest.server_process import Launched, launched
from mediround import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MediRoundError,
    NotFound,
    ResourceExhausted,
    Round,
    ServerFault,
    Unavailable,
    dicom,
)
from serving.api import openings
from serving.api.server import Server, serving
from serving.api.upload import ReceivedImage, receive
from serving.bundle import Bundle
from serving.errors import EngineFault, Exhausted
from serving.errors import Unavailable as EngineDown
from tests.service.either import Blocking, Make
from tests.service.harness import Stage, picture
from tests.service.harness import stage as build_stage

QUESTION = "Segment the liver."


# Errors: MediRoundErrors alone


async def test_a_closed_client_says_so_whatever_is_asked(make: Make, server: Server) -> None:
    either = make(server.address)
    session = await either.open(picture())
    await either.close()
    await either.close()
    asked: list[Callable[[], Awaitable[object]]] = [
        lambda: either.ask(session, QUESTION),
        lambda: either.segment(session, [Round(QUESTION)]),
        lambda: either.open(picture()),
        lambda: either.open(picture(1200, 1200)),
        lambda: either.call("describe"),
        lambda: either.call("ping"),
        lambda: either.call("wait_until_ready", 1),
    ]
    for ask in asked:
        with pytest.raises(FailedPrecondition, match="the client is closed: make another one"):
            await ask()
    await either.close(session)  # it is closed


CT = Path(str(get_testdata_file("CT_small.dcm", download=False)))
CT_FORMS = (CT, CT.read_bytes(), pydicom.dcmread(CT))


async def test_a_dicom_object_is_opened_in_any_form(make: Make, server: Server) -> None:
    """The window is chosen there, and told in each result; the mask is the frame's."""
    frame = dicom.read(CT).frame(1, "brain")
    either = make(server.address)
    for source in CT_FORMS:
        session = await either.open(source, window="brain")
        result = await either.ask(session, QUESTION)
        assert session.opening.upload_skipped == (source is not CT)
        assert result.pixels == frame.record
        assert result.mask is not None
        assert result.mask.shape == (128, 128)
    session = await either.open(frame)
    assert session.opening.upload_skipped
    for options, field in (({"frame": 2}, "frame"), ({"window": "liver lesion"}, "window")):
        with pytest.raises(InvalidArgument) as caught:
            await either.open(CT, **options)
        assert caught.value.violations[0].field == field
    with pytest.raises(dicom.NoImage, match="RT Plan Storage"):
        await either.open(str(get_testdata_file("rtplan.dcm", download=False)))


async def test_a_client_that_is_closed_during_a_call(make: Make, server: Server, stage: Stage) -> None:
    either = make(server.address)
    session = await either.open(picture())
    stage.language.script.hold("complete")
    asked = [
        asyncio.ensure_future(either.ask(session, QUESTION)),
        asyncio.ensure_future(either.segment(session, [Round(QUESTION)])),
    ]
    await stage.language.script.reached("complete")
    await either.close()
    stage.language.script.let_go("complete")
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(outcome, (Cancelled, FailedPrecondition)), repr(outcome)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"question": None}, "question.text"),
        ({"question": b"Segment it."}, "question.text"),
        ({"question": ["Segment it."]}, "question.text"),
        ({"answer": 7}, "question.answer"),
        ({"answer": b"[SEG]"}, "question.answer"),
        ({"mode": ["free"]}, "question.answer_mode"),
        ({"mode": 3}, "question.answer_mode"),
        ({"refer_to": 0.0}, "question.refer_to"),
        ({"refer_to": False}, "question.refer_to"),
        ({"refer_to": np.False_}, "question.refer_to"),
        ({"refer_to": "0"}, "question.refer_to"),
        ({"refer_to": -1}, "question.refer_to"),
        ({"refer_to": np.int64(-1)}, "question.refer_to"),
        ({"refer_to": [0]}, "question.refer_to"),
        ({"threshold": float("nan")}, "correction.threshold"),
        ({"threshold": np.nan}, "correction.threshold"),
        ({"threshold": 1.5}, "correction.threshold"),
        ({"threshold": True}, "correction.threshold"),
        ({"threshold": "0.5"}, "correction.threshold"),
        ({"correction": None}, "correction.policy"),
        ({"correction": ["off"]}, "correction.policy"),
        ({"near_zero": 0}, "near_zero"),
        ({"near_zero": 1.5}, "near_zero"),
        ({"near_zero": float("nan")}, "near_zero"),
        ({"near_zero": True}, "near_zero"),
        ({"near_zero": "1e-4"}, "near_zero"),
        ({"priority": None}, "priority"),
        ({"priority": {"batch": 1}}, "priority"),
        ({"timeout": "5"}, "timeout"),
        ({"retries": 1.5}, "retries"),
    ],
)
async def test_arguments_of_a_wrong_type(make: Make, server: Server, asked: dict[str, object], field: str) -> None:
    either = make(server.address)
    session = await either.open(picture())
    with pytest.raises(InvalidArgument) as caught:
        await either.ask(session, **({"question": QUESTION} | asked))
    assert [violation.field for violation in caught.value.violations] == [field]
    assert (await either.ask(session, QUESTION, refer_to=None)).index == 0


@pytest.mark.parametrize(
    "rounds", [None, QUESTION, b"a", Round(QUESTION), [QUESTION], [Round(QUESTION), None], {}, 5]
)
async def test_rounds_of_a_wrong_type(make: Make, server: Server, stage: Stage, rounds: object) -> None:
    either = make(server.address)
    session = await either.open(picture())
    if isinstance(rounds, dict):
        rounds = {"question": QUESTION}
    with pytest.raises(InvalidArgument, match="must be a"):
        await either.segment(session, rounds)
    with pytest.raises(InvalidArgument, match="must be a"):
        if isinstance(either, Blocking):
            await asyncio.to_thread(lambda: list(either.client.segment(picture(seed=1), rounds)))
        else:
            [_ async for _ in either.client.segment(picture(seed=1), rounds)]
    assert stage.sessions.count == 1  # nothing was opened for what cannot be asked


async def test_numbers_of_numpy_are_numbers(make: Make, server: Server) -> None:
    either = make(server.address, timeout=np.float64(20), retries=np.int32(1))
    session = await either.open(picture())
    await either.ask(session, QUESTION)
    result = await either.ask(session, QUESTION, refer_to=np.uint8(0), threshold=np.float32(0.5))
    assert result.reference.index == 0
    again = await either.segment(session, (Round(QUESTION, refer_to=np.int64(n)) for n in range(2)))
    assert [each.reference.index for each in again] == [0, 1]


@pytest.mark.parametrize("image", ["a\0b.png", "half \ud83d.png", 5, object(), [], {}, memoryview(b"abc")])
async def test_images_of_a_wrong_type(make: Make, server: Server, image: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await make(server.address).open(image)
    assert caught.value.violations[0].field == "image"


@pytest.mark.parametrize("session_id", [None, 5, "", b"s", "a\nb", "half \ud83d"])
async def test_what_is_no_session_id(make: Make, server: Server, session_id: object) -> None:
    with pytest.raises(InvalidArgument, match="session_id"):
        make(server.address).client.session(session_id)


@pytest.mark.parametrize("tls", [True, "ca.pem", {}])
async def test_what_is_no_tls(make: Make, server: Server, tls: object) -> None:
    with pytest.raises(InvalidArgument, match="tls: must be a Tls"):
        make(server.address, tls=tls)


async def test_clients_and_sessions_are_not_copied(make: Make, server: Server) -> None:
    either = make(server.address)
    session = await either.open(picture())
    for held in (either.client, session):
        for way in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="make a client in each process"):
                way(held)
    result = await either.ask(session, QUESTION)
    again = pickle.loads(pickle.dumps(result))  # noqa: S301
    np.testing.assert_array_equal(again.mask, result.mask)
    assert (await either.ask(session, QUESTION, refer_to=again)).reference.index == 0


async def test_an_asyncio_client_of_another_loop(server: Server) -> None:
    client = AsyncClient(server.address)  # made in no particular loop
    await client.describe()

    def elsewhere() -> None:
        with pytest.raises(FailedPrecondition, match="another event loop"):
            asyncio.run(client.describe())
        asyncio.run(client.close())

    await asyncio.to_thread(elsewhere)


async def test_a_time_without_end(make: Make, server: Server) -> None:
    for endless in (float("inf"), 1e10):
        either = make(server.address, timeout=endless)
        assert (await either.call("describe")).model_name == "made-up"
        session = await either.open(picture(), timeout=endless)
        assert (await either.ask(session, QUESTION, timeout=endless)).index == 0


async def test_a_result_shows_the_image_that_its_session_was_opened_on(make: Make, server: Server) -> None:
    either, image = make(server.address), picture()
    session = await either.open(image)
    result = await either.ask(session, QUESTION)
    np.testing.assert_array_equal(result.overlay(), result.overlay(image))
    assert [each._repr_png_() for each in await either.segment(session, [Round(QUESTION)])] != [None]


async def test_the_hosts_proxy_is_used_only_where_that_is_asked_for(
    make: Make, server: Server, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")
    assert (await make(server.address).call("describe")).model_name == "made-up"
    with pytest.raises(Unavailable):
        await make(server.address, http_proxy=True).call("describe")


# What is sent again


async def test_what_the_server_did_not_begin_is_asked_again(make: Make, server: Server, stage: Stage) -> None:
    either = make(server.address)
    session = await either.open(picture())
    script = stage.language.script
    for failure in (Exhausted("full", 0.01), EngineDown("starting", 0.01)):
        script.fail_next("complete", failure)
    assert (await either.ask(session, QUESTION)).index == 0
    for failure in (Exhausted("full", 0.01), EngineDown("starting", 0.01)):
        script.fail_next("complete", failure)
    assert [each.index for each in await either.segment(session, [Round(QUESTION)] * 2)] == [1, 2]
    script.fail_next("complete", Exhausted("full", 0.01))
    with pytest.raises(ResourceExhausted) as refused:
        await either.ask(session, QUESTION, retries=0)
    assert (refused.value.retry_after, refused.value.not_begun) == (0.01, True)


async def test_after_so_many_times_the_error_is_told(make: Make, server: Server, stage: Stage) -> None:
    either = make(server.address, retries=1)
    session = await either.open(picture())
    for _ in range(2):
        stage.language.script.fail_next("complete", EngineDown("starting", 0.01))
    with pytest.raises(Unavailable, match="starting"):
        await either.ask(session, QUESTION)
    assert len(stage.language.script.asked("complete")) == 2


async def test_faults_are_not_asked_again(make: Make, server: Server, stage: Stage) -> None:
    either = make(server.address)
    session = await either.open(picture())
    stage.language.script.fail_next("complete", EngineFault("broken"))
    with pytest.raises(ServerFault):
        await either.ask(session, QUESTION)
    assert len(stage.language.script.asked("complete")) == 1


async def test_what_was_lost_on_the_way_is_not_asked_again_of_a_server_that_may_not_know_it(
    make: Make, stage: Stage
) -> None:
    """A session that was taken up by its id: nothing is known yet of its server."""
    async with serving(stage.service, drain_seconds=0) as server:
        either = make(server.address)
        opened = [await either.open(picture(seed=seed)) for seed in range(2)]
        sessions = [either.client.session(each.session_id) for each in opened]
        stage.language.script.hold("complete")
        asked = [
            asyncio.ensure_future(either.ask(sessions[0], QUESTION, timeout=20)),
            asyncio.ensure_future(either.segment(sessions[1], [Round(QUESTION)], timeout=20)),
        ]
        async with asyncio.timeout(10):
            while len(stage.language.script.asked("complete")) < 2:  # noqa: ASYNC110  # the script signals one
                await asyncio.sleep(0.002)
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(outcome, Unavailable)
        assert not outcome.not_begun
    assert len(stage.language.script.asked("complete")) == 2


async def test_a_dialogue_goes_on_where_it_was_refused(make: Make, server: Server, stage: Stage) -> None:
    """The second wave is refused after the first has been answered: no result and no pass comes twice."""
    either = make(server.address)
    session = await either.open(picture())
    rounds = [Round(QUESTION), Round(QUESTION, refer_to=0)]
    script, calls = stage.language.script, 0
    original = stage.language.complete

    async def complete(prompt: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Exhausted("full", 0.01)
        return await original(prompt)

    stage.language.complete = complete
    assert [each.index for each in await either.segment(session, rounds)] == [0, 1]
    assert calls == 3
    assert script.running["complete"] == 0


async def test_a_busy_server_is_come_back_to_when_it_says(make: Make, executor: Executor) -> None:
    """Sixteen at once, and room for two."""
    busy = build_stage(executor, concurrency=1, max_wait=0.05, max_concurrent_rounds=2, max_sessions=64)
    async with serving(busy.service, observer=busy.observer) as server:
        either = make(server.address, timeout=60, retries=100)

        async def reader(number: int) -> list[int]:
            session = await either.open(picture(seed=number))
            results = [await either.ask(session, QUESTION) for _ in range(2)]
            await either.close(session)
            return [result.index for result in results]

        assert await asyncio.gather(*(reader(number) for number in range(16))) == [[0, 1]] * 16


@pytest.fixture(scope="module")
def real(random_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A server of its own process, whose engines take their time."""
    with launched(random_bundle.directory, tmp_path_factory.mktemp("real") / "server.log") as running:
        yield running


@pytest.mark.parametrize("priority", ["interactive", "batch"])
async def test_sixteen_at_once_on_new_images(make: Make, real: Launched, priority: str) -> None:
    """With the retries that a client has by itself; the time is that of a machine that does much else."""
    either = make(real.address, timeout=240)
    seed = hash((type(either), priority)) % (1 << 31)

    async def reader(number: int) -> list[int]:
        session = await either.open(picture(64, 64, seed=seed + number))
        asked = {"answer": "It is [SEG].", "priority": priority}
        first = await either.ask(session, QUESTION, **asked)
        second = await either.ask(session, QUESTION, refer_to=first, **asked)
        await either.close(session)
        return [first.index, second.index]

    assert await asyncio.gather(*(reader(number) for number in range(16))) == [[0, 1]] * 16


# One id


async def test_one_id_in_the_result_the_log_and_the_error(
    make: Make, server: Server, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    either = make(server.address)
    session = await either.open(picture())
    with caplog.at_level(logging.INFO):
        stage.language.script.fail_next("complete", Exhausted("full", 0.01))
        result = await either.ask(session, QUESTION)
    assert str(uuid.UUID(result.request_id)) == result.request_id
    logged = [record for record in caplog.records if record.name == "serving.rounds"]
    assert {record.fields["request"] for record in logged} == {result.request_id}
    assert len(logged) == 2  # refused, then answered: one id over both
    both = await either.segment(session, [Round(QUESTION)] * 2)
    assert len({each.request_id for each in (result, *both)}) == 2

    caplog.clear()
    stage.language.script.fail_next("complete", EngineFault("broken"))
    with pytest.raises(ServerFault) as fault:
        await either.ask(session, QUESTION)
    assert fault.value.incident == fault.value.request_id
    assert f"incident {fault.value.incident} in" in caplog.text


async def test_every_error_of_the_server_has_its_id(make: Make, server: Server, free_port: int) -> None:
    either = make(server.address)
    session = await either.open(picture())
    caught: list[MediRoundError] = []
    for ask in (
        lambda: either.ask(session, ""),
        lambda: either.ask(session, QUESTION, refer_to=9),
        lambda: either.ask(either.client.session("unknown"), QUESTION),
        lambda: either.segment(session, [Round("")]),
        lambda: either.open(b"no image"),
        lambda: either.open(picture(1, 100)),
        lambda: make(f"127.0.0.1:{free_port}").call("describe"),
    ):
        with pytest.raises(MediRoundError) as error:
            await ask()
        caught.append(error.value)
    ids = [error.request_id for error in caught]
    assert all(str(uuid.UUID(known)) == known for known in ids)
    assert len(set(ids)) == len(ids)


# Readiness, and sessions that are known


async def test_ping(make: Make, stage: Stage, free_port: int) -> None:
    server = Server(stage.service, "127.0.0.1:0")
    await server.start()
    either = make(server.address)
    with pytest.raises(Unavailable, match="does not serve"):
        await either.call("ping")
    await server.ready()
    assert 0 < await either.call("ping") < 60
    await server.drain(0)
    with pytest.raises(Unavailable):
        await make(f"127.0.0.1:{free_port}").call("ping")


async def test_waiting_for_a_server_that_starts(make: Make, stage: Stage, free_port: int) -> None:
    either = make(f"127.0.0.1:{free_port}")
    waiting = asyncio.ensure_future(either.call("wait_until_ready", 30))
    await asyncio.sleep(0.5)
    server = Server(stage.service, f"127.0.0.1:{free_port}")
    await server.start()
    await asyncio.sleep(0.5)
    assert not waiting.done()  # it listens, and does not serve yet
    await server.ready()
    await waiting
    await either.close()
    await server.drain(0)


async def test_waiting_ends(make: Make, free_port: int) -> None:
    with pytest.raises(DeadlineExceeded, match=r"not ready within 0.5 s: .*[Cc]onnect"):
        await make(f"127.0.0.1:{free_port}").call("wait_until_ready", 0.5)


async def test_a_session_is_taken_up_by_its_id(make: Make, server: Server) -> None:
    first, second = make(server.address), make(server.address)
    opened = await first.open(picture())
    earlier = await first.ask(opened, QUESTION)
    taken = second.client.session(opened.session_id)
    later = await second.ask(taken, QUESTION, refer_to=earlier)
    assert (later.index, later.mask.shape) == (1, (48, 64))
    await second.close()
    assert (await first.ask(opened, QUESTION)).index == 2  # closing a client leaves others' sessions
    with pytest.raises(NotFound):
        await first.ask(first.client.session("unknown"), QUESTION)


# What is closed


async def test_closing_a_client_closes_what_it_opened(make: Make, server: Server, stage: Stage) -> None:
    either = make(server.address)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for seed in range(8):  # as many as the server holds; none of them kept
            await either.open(picture(seed=seed))
        gc.collect()
    assert stage.sessions.count == 8
    await either.close()
    assert stage.sessions.count == 0


async def test_a_client_closes_although_the_server_is_gone(make: Make, stage: Stage) -> None:
    async with serving(stage.service, drain_seconds=0) as server:
        either = make(server.address)
        session = await either.open(picture())
    await either.close()
    await either.close(session)


async def test_a_session_that_is_left_open_is_told(make: Make, server: Server) -> None:
    either = make(server.address)
    session = await either.open(picture())
    await either.call("describe")  # a thread of the pool holds what it returned last
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del session
        gc.collect()
    assert ["collected before it was closed" in str(each.message) for each in told] == [True]
    closed = await either.open(picture())
    await either.close(closed)
    taken = either.client.session("unknown")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del closed, taken
        gc.collect()


# Large images


async def test_what_the_header_refuses_is_refused_before_it_is_sent(make: Make, server: Server) -> None:
    either = make(server.address)
    for image, words in ((picture(2048, 2048), "1048576 pixels"), (bytes(4 << 20), "at most the 3145728")):
        for outcome in await asyncio.gather(*(either.open(image) for _ in range(16)), return_exceptions=True):
            assert isinstance(outcome, InvalidArgument), repr(outcome)
            assert words in str(outcome)


async def test_an_image_of_several_chunks(make: Make, server: Server) -> None:
    image = picture(900, 1100)  # 2.8 MiB
    session = await make(server.address).open(image)
    assert (session.opening.height, session.opening.width, session.opening.upload_skipped) == (900, 1100, False)


async def test_a_verdict_that_never_comes_does_not_hold_an_image_back(
    make: Make, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """As behind a proxy that holds initial metadata back."""
    for module in ("mediround._blocking", "mediround._asynchronous"):
        monkeypatch.setattr(f"{module}.VERDICT_SECONDS", 0.1)

    async def held_back() -> None:
        """Says nothing yet."""

    async def receiving(messages: Any, limits: Any, accepted: object, *more: Any) -> ReceivedImage:
        return await receive(messages, limits, held_back, *more)

    monkeypatch.setattr(openings, "receive", receiving)
    async with serving(stage.service) as server:
        await make(server.address).open(picture(900, 1100))


def test_interrupting_an_upload_leaves_no_thread(free_port: int) -> None:
    before = threading.active_count()
    with Client(f"127.0.0.1:{free_port}", retries=0) as client, pytest.raises(Unavailable):
        client.open(picture(900, 1100))
    deadline = time.monotonic() + 10
    while threading.active_count() > before + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before + 2
