"""Schedules of what may happen to sessions, of seeds that are printed; and bugs that are planted, which they find.

One seed in CI; `make chaos` takes more.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from serving.domain import Question
from serving.history import changes
from serving.history.record import SessionRecord
from serving.history.rounds import MaskSource, ReferredMask
from serving.stores.kept.parts import Parts
from serving.stores.sqlite.records import SqliteRecords
from tests.unit.schedules.faults import BROKEN
from tests.unit.schedules.machine import SessionSchedules

SEEDS = range(int(os.environ.get("CHAOS_SEEDS", "1")))
PLANTED_SEEDS = SEEDS[:3]
SCHEDULES = 200
"""Of each seed."""
MOST_UNTIL_FOUND = 500
KINDS = 17
"""Of steps."""


def run(number: int, schedules: int, *phases: Phase) -> None:
    SessionSchedules.steps.clear()
    SessionSchedules.troubles.clear()
    chosen = settings(
        max_examples=schedules,
        stateful_step_count=30,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, *phases],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(number)(SessionSchedules), settings=chosen)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What fails here fails on purpose, some thousand times."""
    caplog.set_level(logging.CRITICAL)


@pytest.mark.timeout(1200)  # a failing schedule is made short first, for up to five minutes
@pytest.mark.parametrize("number", SEEDS)
def test_whatever_happens_to_sessions(number: int) -> None:
    run(number, SCHEDULES, Phase.shrink)
    steps, troubles = Counter(SessionSchedules.steps), Counter(SessionSchedules.troubles)
    print(f"\nseed {number}: {', '.join(f'{count} {name}' for name, count in steps.most_common())}")
    print(f"befell a request: {', '.join(f'{count} {name}' for name, count in troubles.most_common())}")
    assert steps.pop("schedules") >= SCHEDULES
    assert len(steps) == KINDS, "every kind of step was taken"
    assert troubles.keys() == {"none", "twice at once", *BROKEN}


# ---- bugs


def acknowledged_before_the_write(patch: pytest.MonkeyPatch) -> None:
    """A change is written when the file is used next; a server that dies before has lost it."""
    waiting: WeakKeyDictionary[SqliteRecords, tuple[SessionRecord, SessionRecord]] = WeakKeyDictionary()
    change = SqliteRecords.change

    async def written(self: SqliteRecords) -> None:
        if self in waiting:
            await change(self, *waiting.pop(self))

    async def later(self: SqliteRecords, old: SessionRecord, new: SessionRecord) -> None:
        await written(self)
        waiting[self] = old, new

    patch.setattr(SqliteRecords, "change", later)
    for name in ("put", "version", "get", "page", "end"):
        patch.setattr(SqliteRecords, name, _after(written, getattr(SqliteRecords, name)))


def _after(first: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    async def both(self: SqliteRecords, *args: object, **kwargs: object) -> object:
        await first(self)
        return await then(self, *args, **kwargs)

    return both


def undo_that_keeps_an_old_reference(patch: pytest.MonkeyPatch) -> None:
    """Masks that were referred to are remembered by the round's index."""
    known: dict[tuple[str, int], ReferredMask] = {}
    plain = changes.referred_mask

    def remembered(record: SessionRecord, question: Question) -> ReferredMask | None:
        mask = plain(record, question)
        if mask is None or mask.source is not MaskSource.ROUND:
            return mask
        return known.setdefault((record.session_id, mask.round), mask)

    patch.setattr(changes, "referred_mask", remembered)


def key_without_the_tenant(patch: pytest.MonkeyPatch) -> None:
    """Sessions lie in the file by their ids alone."""
    patch.setattr(Parts, "key", lambda self, session_id, _: self._seal.name("session", session_id))


@pytest.mark.parametrize(
    "bug", [acknowledged_before_the_write, undo_that_keeps_an_old_reference, key_without_the_tenant]
)
@pytest.mark.parametrize("number", PLANTED_SEEDS)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run(number, MOST_UNTIL_FOUND)
    schedules = SessionSchedules.steps["schedules"]
    print(f"\nseed {number}: {bug.__name__} found in schedule {schedules}")
    assert schedules <= MOST_UNTIL_FOUND
