"""How a round ends that is not answered, by the error that ended it."""

from __future__ import annotations

import pytest

from loadtest.record import Outcome, outcome_of
from mediround import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MediRoundError,
    NotFound,
    ProtocolMismatch,
    ResourceExhausted,
    ServerFault,
    Unavailable,
)
from tests.loadtest.conftest import Against, scenario
from tests.loadtest.scripted import ScriptedServer


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ResourceExhausted("full", 1.0), Outcome.EXHAUSTED),
        (Unavailable("gone", 1.0), Outcome.UNAVAILABLE),
        (DeadlineExceeded("late"), Outcome.TIMED_OUT),
        (InvalidArgument("too long"), Outcome.REFUSED),
        (FailedPrecondition("closed"), Outcome.REFUSED),
        (NotFound("expired"), Outcome.NOT_FOUND),
        (AccessDenied("no certificate"), Outcome.ACCESS_DENIED),
        (ServerFault("INTERNAL"), Outcome.FAULT),
        (ProtocolMismatch("unknown message"), Outcome.FAULT),
        (Cancelled("by the server"), Outcome.FAULT),
    ],
)
def test_every_error_of_the_client_has_its_outcome(error: MediRoundError, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


@pytest.mark.parametrize("mode", ["live", "known"])
async def test_a_round_past_the_ordinary_timeout_is_timed_out_and_failed(against: Against, mode: str) -> None:
    talk = {"mode": mode, "rounds": (3, 3), "think": 0.0}
    ran = await against(ScriptedServer(delay=2.0), scenario(rate=2, dialogues=talk, calls={"timeout": 0.2}))
    assert ran.report.outcomes == {"timed_out": 2, "abandoned": 4}
    assert ran.report.told_to_retry == 0
    assert ran.report.overall.given_up == 0
    assert ran.report.verdict.result == "missed"


async def test_a_round_still_open_a_timeout_after_the_end_is_unfinished_and_failed(
    against: Against, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.driver._MARGIN", 0.1)
    talk = {"rounds": (2, 2), "think": 0.0}
    server = ScriptedServer(refuse=1, retry_after=30.0)
    ran = await against(server, scenario(rate=1, dialogues=talk, calls={"timeout": 0.2}))
    assert ran.report.outcomes == {"unfinished": 2}
    assert ran.report.verdict.result == "missed"
