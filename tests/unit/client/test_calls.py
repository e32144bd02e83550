"""A call's time, repetitions and id; and what may be asked of both clients."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest

import mediround
from mediround import AsyncClient, AsyncSession, Client, InvalidArgument, ResourceExhausted, Session, Unavailable
from mediround import _calls as calls
from mediround._calls import BATCH_TIMEOUT, TIMEOUT, Call, CallDefaults
from serving.settings import AdmissionSettings

NEVER = "127.0.0.1:9"
WRONG_TIMES = (0, -1, -math.inf, math.nan, True, "5", None.__class__, [], 1j, b"1")


@pytest.mark.parametrize("timeout", [0.001, 1, np.float32(2.5), np.int64(3), 1e8])
def test_a_time_is_seconds(timeout: float) -> None:
    call = CallDefaults.of(timeout, 2).call()
    assert 0 < call.timeout <= float(timeout)


@pytest.mark.parametrize("timeout", [math.inf, 1e9, 1e10, 1e300, np.inf])
def test_no_end_is_no_deadline(timeout: float) -> None:
    for call in (CallDefaults.of(timeout, 2).call(), CallDefaults.of(None, 2).call(timeout)):
        assert call.timeout is None
        assert call.pause(Unavailable("starting", 30.0, not_begun=True)) is not None


@pytest.mark.parametrize("timeout", WRONG_TIMES)
def test_what_is_no_time(timeout: object) -> None:
    asked: list[Callable[[], object]] = [
        lambda: Client(NEVER, timeout=timeout),
        lambda: AsyncClient(NEVER, timeout=timeout),
        lambda: Client(NEVER).describe(timeout=timeout),
        lambda: Client(NEVER).ping(timeout=timeout),
        lambda: Client(NEVER).wait_until_ready(timeout),
        lambda: Client(NEVER).open(np.zeros((2, 2), np.uint8), timeout=timeout),
        lambda: Client(NEVER).session("s").ask("a", timeout=timeout),
        lambda: next(Client(NEVER).session("s").segment([mediround.Round("a")], timeout=timeout)),
        lambda: asyncio.run(AsyncClient(NEVER).describe(timeout=timeout)),
        lambda: asyncio.run(AsyncClient(NEVER).session("s").ask("a", timeout=timeout)),
    ]
    for ask in asked:
        with pytest.raises(InvalidArgument, match="timeout: must be seconds above 0"):
            ask()


@pytest.mark.parametrize("retries", [-1, 101, 1.0, True, "2", math.inf, None])
def test_what_is_no_number_of_retries(retries: object) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(InvalidArgument, match="retries: must be a whole number from 0 to 100"):
            make(NEVER, retries=retries)


def test_a_batch_has_longer_than_a_server_lets_it_wait() -> None:
    assert AdmissionSettings().max_batch_wait < BATCH_TIMEOUT
    defaults = CallDefaults.of(None, 2)
    assert (defaults.call().allowed, defaults.call(priority="batch").allowed) == (TIMEOUT, BATCH_TIMEOUT)
    assert CallDefaults.of(7, 2).call(priority="batch").allowed == 7
    assert defaults.call(7, priority="batch").allowed == 7


def refused(retry_after: float, *, not_begun: bool = True) -> ResourceExhausted:
    return ResourceExhausted("busy", retry_after, not_begun=not_begun)


def test_a_call_is_sent_again_after_what_the_server_says_and_by_chance_a_little_later() -> None:
    pauses = [Call(60.0, 2).pause(refused(2.0)) for _ in range(64)]
    assert all(2.0 <= pause <= 2.5 for pause in pauses)
    assert len(set(pauses)) > 32


def test_a_call_is_sent_again_only_as_often_as_allowed() -> None:
    call = Call(60.0, 2)
    assert [call.pause(refused(0.01)) is None for _ in range(3)] == [False, False, True]
    assert Call(60.0, 0).pause(refused(0.01)) is None


def test_what_a_server_may_have_begun_is_not_sent_again() -> None:
    assert Call(60.0, 2).pause(refused(0.01, not_begun=False)) is None


def test_a_pause_never_outlasts_the_deadline_nor_patience() -> None:
    assert Call(1.0, 2).pause(refused(1.5)) is None
    assert Call(math.inf, 2).pause(refused(61.0)) is None


def test_a_pause_is_told_by_its_request_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="mediround"):
        call = Call(60.0, 2)
        call.pause(refused(0.01))
    assert call.request_id in caplog.text
    assert "busy" not in caplog.text


def test_a_request_has_one_id_over_all_its_attempts() -> None:
    call = Call(60.0, 2)
    before = call.metadata
    call.pause(refused(0.01))
    assert call.metadata == before == ((calls.REQUEST_ID, call.request_id),)
    assert Call(60.0, 2).request_id != call.request_id


def signatures(kind: type) -> dict[str, list[tuple[str, object, object]]]:
    public = {name: member for name, member in inspect.getmembers(kind) if not name.startswith("_")}
    found = {"__init__": kind.__init__} | {name: member for name, member in public.items() if callable(member)}
    return {
        name: [(p.name, p.kind, p.default) for p in inspect.signature(member).parameters.values()]
        for name, member in found.items()
        if name != "__init__" or kind in (Client, AsyncClient)
    } | {name: [] for name in public}


@pytest.mark.parametrize(("blocking", "awaited"), [(Client, AsyncClient), (Session, AsyncSession)])
def test_both_clients_are_asked_alike(blocking: type, awaited: type) -> None:
    assert signatures(blocking) == signatures(awaited)
