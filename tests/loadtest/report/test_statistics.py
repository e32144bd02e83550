"""Figures against records whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.driver import Driven
from loadtest.record import Outcome, Recording
from loadtest.report import statistics
from loadtest.report.model import GeneratorFigures
from loadtest.report.verdict import judged
from loadtest.server_metrics import Endpoint, Observed, read_into, sample
from loadtest.server_process import free_port
from tests.loadtest.conftest import scenario

OBJECTIVE = {
    "answered": 0.9,
    "latency": [{"rounds": "first", "share": 0.5, "within": 0.3}, {"rounds": "all", "share": 0.8, "within": 1.0}],
}
FINE = GeneratorFigures(late_sends=0.0, late_wakes=0.0, latest=0.0, dropped=0, most_open=1, peak_bytes=1)


def recorded(*rounds: tuple[int, float, float | None, Outcome]) -> Recording:
    """(index, due, latency, outcome) each."""
    record = Recording(len(rounds))
    for row, (index, due, latency, outcome) in enumerate(rounds):
        record.planned(row, index, due)
        if latency is not None:
            record.sent(row, due, due, due)
        record.end(row, due + (latency or 0.0), outcome)
    return record


def test_percentiles_are_exact_by_nearest_rank() -> None:
    found = statistics.latency(np.arange(1.0, 101.0)[::-1])
    assert found is not None
    by = {p.percent: p for p in found.percentiles}
    assert [by[p].seconds for p in (50, 75, 90, 95, 99, 99.9)] == [50, 75, 90, 95, 99, 100]
    assert found.largest == 100
    assert found.mean == 50.5
    assert by[50].low < 50 < by[50].high
    assert (by[50].low, by[50].high) == (40, 61)


@pytest.mark.parametrize("percent", [50.0, 95.0])
def test_the_interval_holds_the_true_percentile_about_as_often_as_it_says(percent: float) -> None:
    random, held = np.random.default_rng(0), 0
    truth = -np.log(1 - percent / 100)
    for _ in range(400):
        found = statistics.latency(random.exponential(1.0, 200))
        assert found is not None
        held += next(p.low <= truth <= p.high for p in found.percentiles if p.percent == percent)
    assert held / 400 >= 0.94


def test_one_round_and_none() -> None:
    found = statistics.latency(np.array([2.0]))
    assert found is not None
    assert {p.seconds for p in found.percentiles} == {2.0}
    assert statistics.latency(np.zeros(0)) is None


def test_figures_of_each_index_count_every_due_round() -> None:
    record = recorded(
        (0, 0.0, 0.2, Outcome.ANSWERED),
        (1, 1.0, 0.9, Outcome.ANSWERED),
        (0, 2.0, 1.5, Outcome.ANSWERED),
        (1, 3.0, None, Outcome.ABANDONED),
        (0, 4.0, 0.1, Outcome.CANCELLED),
    )
    overall, first, later = statistics.by_round(record.rows, scenario(objective=OBJECTIVE))
    assert (overall.due, overall.answered, overall.good, overall.given_up) == (5, 3, 2, 1)
    assert (first.name, first.due, first.good) == ("0", 3, 1)
    assert (later.name, later.due, later.answered) == ("1", 2, 1)
    assert statistics.outcomes(record.rows) == {"answered": 3, "cancelled": 1, "abandoned": 1}


def test_an_unanswered_round_misses_the_latency_objective_too() -> None:
    rounds = [(0, 0.0, 0.2, Outcome.ANSWERED)] * 7 + [(0, 0.0, None, Outcome.EXHAUSTED)] * 3
    verdict = judged(recorded(*rounds).rows, scenario(objective=OBJECTIVE), FINE, target_gone=False)
    assert verdict.result == "missed"
    assert [check.found for check in verdict.checks] == ["70.00%"] * 3
    assert [check.met for check in verdict.checks] == [False, True, False]


def test_rounds_given_up_as_planned_are_outside_the_objective() -> None:
    rounds = [(0, 0.0, 0.2, Outcome.ANSWERED)] * 5 + [(0, 0.0, None, Outcome.CANCELLED)] * 5
    verdict = judged(recorded(*rounds).rows, scenario(objective=OBJECTIVE), FINE, target_gone=False)
    assert verdict.result == "met"


def test_an_objective_about_rounds_that_were_not_due_is_missed() -> None:
    rows = recorded((1, 0.0, 0.2, Outcome.ANSWERED)).rows
    assert judged(rows, scenario(objective=OBJECTIVE), FINE, target_gone=False).result == "missed"


def test_the_series_counts_each_round_where_it_was_due() -> None:
    record = recorded(
        (0, 0.5, 0.1, Outcome.ANSWERED), (0, 1.5, None, Outcome.FAULT), (0, 1.6, 9.0, Outcome.ANSWERED)
    )
    asked = scenario(duration=3.0, objective={"latency": [{"share": 0.5, "within": 1.0}]})
    found = statistics.series(record.rows, asked)
    assert [(s.due, s.answered, s.good, s.failed) for s in found] == [(1, 1, 1, 0), (2, 1, 0, 1), (0, 0, 0, 0)]


def test_lateness_is_the_generators_own() -> None:
    record = Recording(1)
    record.sent(0, due=1.0, now=1.4, ready=1.3)
    driven = Driven()
    driven.wakes.extend([0.01] * 99 + [0.5])
    found = statistics.generator(record, driven)
    assert found.late_sends == pytest.approx(0.1)
    assert found.late_wakes == pytest.approx(0.01)
    assert found.latest == pytest.approx(0.5)


BEFORE = """\
# TYPE mediround_cache_hits counter
mediround_cache_hits_total{cache="embedding"} 5.0
# TYPE mediround_cache_misses counter
mediround_cache_misses_total{cache="embedding"} 5.0
# TYPE mediround_stage_seconds histogram
mediround_stage_seconds_bucket{stage="encode",le="+Inf"} 1.0
mediround_stage_seconds_count{stage="encode"} 1.0
mediround_stage_seconds_sum{stage="encode"} 9.0
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 100.0
# EOF
"""
AFTER = BEFORE.replace("hits_total{cache=\"embedding\"} 5", "hits_total{cache=\"embedding\"} 35").replace(
    "misses_total{cache=\"embedding\"} 5", "misses_total{cache=\"embedding\"} 15"
).replace("+Inf\"} 1", "+Inf\"} 5").replace("count{stage=\"encode\"} 1", "count{stage=\"encode\"} 5").replace(
    "} 9.0", "} 11.0"
)  # fmt: skip


def grown(before: str, after: str) -> Observed:
    observed = Observed()
    for read in (before, after):
        observed.add(sample(read, open_metrics=True))
    return observed


def test_metrics_tell_what_grew_during_the_run() -> None:
    found = statistics.server([grown(BEFORE, AFTER)])
    assert [(c.name, c.hits, c.misses, c.rate) for c in found.caches] == [("embedding", 30, 10, 0.75)]
    assert found.stages == {"encode": 0.5}
    assert found.peaks == {"process_resident_memory_bytes": 100.0}
    assert found.missing == ("mediround_prompt_tokens_total", "mediround_shed_total")


LANGUAGE = """\
# TYPE mediround_cache_hits counter
mediround_cache_hits_total{cache="pictures"} 1.0
mediround_cache_hits_total{cache="embedding"} 100.0
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 7.0
# TYPE process_cpu_seconds counter
process_cpu_seconds_total 3.0
# EOF
"""


def test_metrics_of_several_processes_are_added_and_none_stands_for_another() -> None:
    later = LANGUAGE.replace('pictures"} 1.0', 'pictures"} 5.0').replace("100.0", "102.0").replace("3.0", "4.5")
    language = grown(LANGUAGE.replace("bytes 7.0", "bytes 50.0"), later)
    gone = Observed(failed=3)
    found = statistics.server([grown(BEFORE, AFTER), language, gone])
    assert [(c.name, c.hits, c.misses) for c in found.caches] == [("embedding", 32, 10), ("pictures", 4, 0)]
    assert found.peaks == {"process_resident_memory_bytes": 150.0}
    assert found.cpu_seconds == 1.5
    assert (found.scrapes, found.scrapes_failed) == (4, 3)
    assert found.missing == ("mediround_prompt_tokens_total", "mediround_shed_total")


async def test_an_address_whose_last_read_failed_counts_until_the_one_before() -> None:
    observed = grown(BEFORE, AFTER)
    assert await read_into(Endpoint(f"127.0.0.1:{free_port()}"), observed) is None
    found = statistics.server([observed])
    assert (found.caches[0].hits, found.scrapes_failed) == (30, 1)
