"""The one timer, and the stages that it times."""

from __future__ import annotations

import pytest

from serving.domain import Timings
from serving.runtime import stopwatch
from serving.runtime.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock says next, and then one after the other."""
    times: list[float] = []
    monkeypatch.setattr(stopwatch, "perf_counter", lambda: times.pop(0))
    return times


def test_it_runs_from_when_it_is_made_until_its_block_ends(clock: list[float]) -> None:
    clock += [10.0, 11.0, 12.5]
    with Stopwatch() as watch:
        assert watch.seconds == 1.0
    assert watch.seconds == watch.seconds == 2.5


def test_it_stops_also_where_the_block_fails(clock: list[float]) -> None:
    clock += [10.0, 12.0]
    with pytest.raises(ValueError, match="wrong"), Stopwatch() as watch:
        raise ValueError("wrong")
    assert watch.seconds == 2.0


def test_stages_add_up_and_may_stand_in_one_another(clock: list[float]) -> None:
    timings = Timings(queue=1.0, total=1.0)
    clock += [0.0, 1.0, 3.0, 3.5, 4.0, 8.0]
    with timings.stage("total"):
        for _ in range(2):
            with timings.stage("decode"):
                pass
    assert timings == Timings(queue=1.0, decode=2.5, total=9.0)
