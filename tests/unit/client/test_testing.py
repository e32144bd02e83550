"""``mediround.testing``: what a script says, and a server is. The contract is tests/contract/test_service.py's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mediround import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    IdempotencyMismatch,
    InvalidArgument,
    MediRoundError,
    MovedOn,
    NeedsImage,
    NotFound,
    OtherModel,
    ProtocolMismatch,
    ResourceExhausted,
    Round,
    ServerFault,
    SessionClosed,
    SessionExpired,
    StaleReference,
    Unavailable,
)
from mediround.errors import AccessDenied
from mediround.testing import (
    DESCRIPTION,
    Answer,
    AskedQuestion,
    Reply,
    Script,
    ServerNotInstalled,
    ServerNotStarted,
    centre,
    serve,
)

IMAGE = np.zeros((32, 48), np.uint8)
HEAVY = ("serving", "PIL", "cv2", "grpc_health", "grpc_reflection", "pydantic", "matplotlib", "rich")


def test_without_a_script_every_question_has_a_mask() -> None:
    with serve() as server, Client(server.address) as client, client.open(IMAGE) as session:
        result = session.ask("Segment the liver.")
    np.testing.assert_array_equal(result.mask, centre(32, 48))
    assert (result.answer, result.score, result.corrected) == ("It is [SEG].", pytest.approx(0.9), False)
    assert result.area == 16 * 24


def test_replies_come_in_turn_and_the_last_stays() -> None:
    mask = np.eye(32, 48, dtype=np.bool_)
    script = {"A": [Unavailable("starting", 0.25), Answer(mask, "Look: [SEG]", score=0.25)], "B": Answer(None)}
    with serve(script) as server, Client(server.address, retries=0) as client, client.open(IMAGE) as session:
        with pytest.raises(Unavailable, match="starting") as caught:
            session.ask("A")
        first, second = session.ask("A"), session.ask("A")
        nothing = session.ask("B")
        empty = session.ask("B", mode="grammar")
        assert server.open_sessions == 1
    assert caught.value.retry_after == 0.25
    assert (first.index, second.index, first.answer, first.corrected) == (0, 1, "Look: [SEG]", True)
    np.testing.assert_array_equal(second.mask, mask)
    assert (nothing.mask, nothing.answer) == (None, "That structure is not visible in this image.")
    assert (empty.area, empty.box) == (0, None)
    assert [question.text for question in server.asked] == ["A", "A", "A", "B", "B"]
    assert server.open_sessions == 0


def test_a_function_sees_what_was_asked() -> None:
    def reply(question: AskedQuestion) -> Reply:
        return Answer(words=f"{question.text} {question.refer_to} {question.priority} [SEG]")

    with serve(reply) as server, Client(server.address) as client, client.open(IMAGE) as session:
        first = session.ask("A", priority="batch")
        second = session.ask("B", refer_to=first, mode="grammar")
    assert (first.answer, second.answer) == ("A None batch [SEG]", "B 0 interactive [SEG]")
    assert [(asked.index, asked.mode, asked.height, asked.width) for asked in server.asked] == [
        (0, "free", 32, 48),
        (1, "grammar", 32, 48),
    ]


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("question.text: no", (FieldViolation("question.text", "no"),)),
        NotFound("gone"),
        FailedPrecondition("closed"),
        AccessDenied("not you"),
        ResourceExhausted("full", 2.5),
        Unavailable("down", 0.5),
        DeadlineExceeded("late"),
        Cancelled("given up"),
        ServerFault("a fault", "7a7a"),
        ProtocolMismatch("too old"),
        SessionExpired("gone"),
        SessionClosed("closed"),
        NeedsImage("parked"),
        StaleReference("undone"),
        OtherModel("another"),
        IdempotencyMismatch("another"),
        MovedOn("others came"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_is_scripted_is_the_one_that_is_raised(error: MediRoundError) -> None:
    script = Script({"A": error}, openings=[error])
    with serve(script) as server, Client(server.address, retries=0) as client:
        with pytest.raises(MediRoundError) as opening:
            client.open(IMAGE)
        with client.open(IMAGE) as session, pytest.raises(MediRoundError) as asking:
            session.ask("A")
    for caught in (opening.value, asking.value):
        assert type(caught) is type(error)
        assert str(caught) == str(error)
        for name in ("violations", "retry_after", "incident"):
            assert getattr(caught, name, None) == getattr(error, name, None)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((4, 4), np.bool_), "the script's mask is bool (4, 4); the image's size is (32, 48)"),
        (np.zeros((32, 48), np.uint8), "uint8"),
        (lambda height, width: height / 0, "ZeroDivisionError"),
    ],
)
def test_a_script_that_is_wrong_says_how(mask: Callable[[int, int], object], words: str) -> None:
    with serve({"A": Answer(mask)}) as server, Client(server.address) as client, client.open(IMAGE) as session:
        with pytest.raises(ServerFault) as caught:
            session.ask("A")
        assert session.ask("B").index == 0
    assert words in str(caught.value)


def test_an_error_within_a_dialogue_keeps_the_waves_before_it() -> None:
    rounds = [Round("A", answer="[SEG]"), Round("B", refer_to=0, answer="[SEG]")]
    with serve({"B": Unavailable("down", 0.5)}) as server, Client(server.address) as client:
        results = client.segment(IMAGE, rounds)
        assert next(results).index == 0
        with pytest.raises(Unavailable):
            next(results)


def test_an_idle_session_is_gone() -> None:
    limits = replace(DESCRIPTION.limits, session_idle_timeout=0.0)
    with (
        serve(Script(description=replace(DESCRIPTION, limits=limits))) as server,
        Client(server.address) as client,
        client.open(IMAGE) as session,
        pytest.raises(NotFound),
    ):
        session.ask("A")


async def test_it_serves_within_an_event_loop() -> None:
    async with serve({"A": Answer(delay=0.01)}) as server, AsyncClient(server.address) as client:
        rounds = [Round("A"), Round("B", refer_to=0)]
        assert [result.index async for result in client.segment(IMAGE, rounds)] == [0, 1]


def test_servers_leave_no_thread_behind_and_stop_what_runs() -> None:
    with serve({"A": Answer(delay=60.0)}) as server:
        client = Client(server.address)
        session = client.open(IMAGE)
        raised: list[MediRoundError] = []

        def ask() -> None:
            try:
                session.ask("A")
            except MediRoundError as error:
                raised.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        while not server.asked:
            time.sleep(0.001)
    asking.join()
    client.close()
    assert isinstance(raised[0], Unavailable)
    assert not [thread for thread in threading.enumerate() if thread.name == "mediround.testing"]


def test_it_needs_nothing_beyond_the_client() -> None:
    code = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
import numpy, mediround, mediround.testing
with mediround.testing.serve() as server, mediround.Client(server.address) as client:
    print(client.open(numpy.zeros((8, 8), numpy.uint8)).ask("A").area)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("16\n", "")


async def test_a_start_that_is_cancelled_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), serve(bundle=tmp_path, ready_within=1.0):
            pass
    number = (tmp_path / "pid").read_text().strip()
    with pytest.raises(ProcessLookupError):
        os.kill(int(number), 0)


def test_where_the_server_is_not_installed_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = tmp_path / "python"
    without.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    without.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(without))
    with pytest.raises(ServerNotInstalled, match="mediround-serving"), serve(bundle=tmp_path):
        pass


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerNotStarted, match=r"manifest\.json"), serve(bundle=tmp_path):
        pass


def test_a_server_that_is_too_slow_is_ended(bundled: Path) -> None:
    with (
        pytest.raises(ServerNotStarted, match=r"not ready within 0\.1 s"),
        serve(bundle=bundled, ready_within=0.1),
    ):
        pass


@pytest.fixture(scope="module")
def bundled() -> Path:
    """The model in the repository."""
    return Path(__file__).parents[3] / "models" / "mediround-lite"


def test_the_real_server_is_started_and_ended(bundled: Path) -> None:
    with serve(bundle=bundled, flags=("--limits.max-rounds", "3")) as server:
        with Client(server.address) as client:
            assert client.describe().limits.max_rounds == 3
        log = server.log
        assert "serving" in log.read_text()
    assert not log.exists()
    with Client(server.address, timeout=5) as client, pytest.raises(Unavailable):
        client.describe()


def test_a_script_or_a_bundle() -> None:
    with pytest.raises(TypeError, match="not both"):
        serve({}, bundle="models/mine")  # type: ignore[call-overload]  # that is the mistake


def test_failures_of_other_calls_come_in_turn() -> None:
    failures = {"RewindSession": [MovedOn("others came")], "GetSession": [Unavailable("busy", 0.01)] * 2}
    script = Script(failures=failures)
    with serve(script) as server, Client(server.address) as client, client.open(IMAGE) as session:
        session.ask("A")
        with pytest.raises(MovedOn, match="others came"):
            session.undo()
        assert len(session.history()) == 1  # sent again by the client
        assert session.undo() == 0


def test_an_answer_that_is_lost_was_given() -> None:
    script = {"A": [Answer(lost=True), Answer()], "B": Answer(lost=True)}
    with serve(script) as server, Client(server.address) as client, client.open(IMAGE) as session:
        assert session.ask("A").index == 0
        with pytest.raises(Unavailable):
            session.ask("B", retries=0)
        assert [past.question for past in session.history()] == ["A", "B"]
        assert [question.text for question in server.asked] == ["A", "B"]


def test_sessions_expire_and_are_parked_when_a_test_says_so() -> None:
    with serve() as server, Client(server.address) as client:
        session = client.open(IMAGE, keep=True)
        first = session.ask("A")
        server.park(session.session_id)
        with pytest.raises(NeedsImage):
            session.ask("B")
        session = client.resume(session.session_id, image=IMAGE)
        assert session.ask("B", refer_to=first).index == 1
        server.expire(session.session_id)
        with pytest.raises(SessionExpired):
            session.ask("C")


def test_a_mask_that_was_given_is_seen() -> None:
    mask = centre(32, 48)
    with serve() as server, Client(server.address) as client, client.open(IMAGE) as session:
        session.ask("A", refer_to=mask)
        session.seed("B", "It is [SEG].", mask)
    [question] = server.asked  # of a seed the model is not asked
    np.testing.assert_array_equal(question.given_mask, mask)
