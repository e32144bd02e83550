"""Figures of a run: from the record of its rounds to percentiles, rates and counts.

Knows numbers. Does not know files, plots or the verdict. Percentiles are exact: of every round that was measured,
by nearest rank.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loadtest.driver import Driven
from loadtest.record import PLANNED, Outcome, Recording
from loadtest.report.model import (
    CacheFigures,
    GeneratorFigures,
    Latency,
    Percentile,
    RoundFigures,
    Second,
    SeenFigures,
    ServerFigures,
)
from loadtest.scenario import Scenario
from loadtest.server_metrics import CPU, MEMORY, Observed
from loadtest.server_process import peak_memory

Rows: TypeAlias = npt.NDArray[np.void]
F64: TypeAlias = npt.NDArray[np.float64]
Bits: TypeAlias = npt.NDArray[np.bool_]

PERCENTS = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
INTERVALS = 120
"""Of the series, at most."""
_Z = 1.96
_ALL = "all"

_HITS, _MISSES = "mediround_cache_hits_total", "mediround_cache_misses_total"
_TOKENS, _SHED = "mediround_prompt_tokens_total", "mediround_shed_total"
_STAGE = "mediround_stage_seconds"


def answered(rows: Rows) -> Bits:
    return np.asarray(rows["outcome"] == Outcome.ANSWERED)


def given_up(rows: Rows) -> Bits:
    return np.isin(rows["outcome"], PLANNED)


def from_due(rows: Rows) -> F64:
    return np.asarray(rows["done"] - rows["due"], np.float64)


def good(rows: Rows, scenario: Scenario) -> Bits:
    """Answered within the widest limit that the objective sets for the round; where it sets none, answered."""
    return answered(rows) & ~(from_due(rows) > limits(rows, scenario))


def limits(rows: Rows, scenario: Scenario) -> F64:
    widest = np.full(len(rows), -np.inf)
    for wanted in scenario.objective.latency:
        applies = of_group(rows, wanted.rounds)
        widest[applies] = np.maximum(widest[applies], wanted.within)
    return np.where(np.isneginf(widest), np.inf, widest)


def of_group(rows: Rows, group: str) -> Bits:
    match group:
        case "first":
            return np.asarray(rows["index"] == 0)
        case "later":
            return np.asarray(rows["index"] > 0)
        case _:
            return np.ones(len(rows), np.bool_)


def latency(seconds: F64) -> Latency | None:
    if not len(seconds):
        return None
    ordered = np.sort(seconds)
    found = tuple(_percentile(ordered, percent) for percent in PERCENTS)
    return Latency(percentiles=found, mean=float(ordered.mean()), largest=float(ordered[-1]))


def _percentile(ordered: F64, percent: float) -> Percentile:
    count, share = len(ordered), percent / 100
    spread = _Z * math.sqrt(count * share * (1 - share))
    # Rounded before it is raised: 0.95 * 20 is a little more than 19.
    middle = math.ceil(round(count * share, 9))
    ends = (math.floor(count * share - spread), math.ceil(count * share + spread) + 1)
    middle, low, high = (min(count, max(1, rank)) for rank in (middle, *ends))
    return Percentile(
        percent=percent,
        seconds=float(ordered[middle - 1]),
        low=float(ordered[low - 1]),
        high=float(ordered[high - 1]),
    )


def by_round(rows: Rows, scenario: Scenario) -> tuple[RoundFigures, ...]:
    """All rounds, then those of each index."""
    indices = np.unique(rows["index"])
    every = [(_ALL, rows), *((str(index), rows[rows["index"] == index]) for index in indices)]
    return tuple(_round_figures(name, of, scenario) for name, of in every)


def _round_figures(name: str, rows: Rows, scenario: Scenario) -> RoundFigures:
    over = rows[answered(rows)]
    return RoundFigures(
        name=name,
        due=len(rows),
        answered=len(over),
        good=int(good(rows, scenario).sum()),
        given_up=int(given_up(rows).sum()),
        from_due=latency(from_due(over)),
        from_sent=latency(np.asarray(over["done"] - over["sent"], np.float64)),
    )


def outcomes(rows: Rows) -> dict[str, int]:
    """How often each came about, by its name in lower case."""
    counts = Counter(rows["outcome"].tolist())
    return {outcome.name.lower(): counts[outcome] for outcome in Outcome if counts[outcome]}


def series(rows: Rows, scenario: Scenario) -> tuple[Second, ...]:
    """Of the whole run, ramp and warm-up included."""
    width = max(1.0, scenario.arrivals.ends / INTERVALS)
    numbers = np.floor(rows["due"] / width).astype(np.int64)
    length = math.ceil(scenario.arrivals.ends / width)
    over, fine, up = answered(rows), good(rows, scenario), given_up(rows)

    def counted(chosen: Bits) -> npt.NDArray[np.int64]:
        return np.bincount(numbers[chosen & (numbers < length)], minlength=length)

    columns = [counted(np.ones(len(rows), np.bool_)), counted(over), counted(fine), counted(~over & ~up)]
    return tuple(
        Second(at=k * width, due=int(due), answered=int(a), good=int(g), failed=int(f))
        for k, (due, a, g, f) in enumerate(zip(*columns, strict=True))
    )


def seen(rows: Rows) -> SeenFigures:
    over = rows[answered(rows)]
    return SeenFigures(
        embedding_hits=int(over["embedding_hit"].sum()),
        answered=len(over),
        cached_tokens=int(over["cached_tokens"].sum(dtype=np.int64)),
        prompt_tokens=int(over["prompt_tokens"].sum(dtype=np.int64)),
    )


def generator(record: Recording, driven: Driven) -> GeneratorFigures:
    sends = record.rows["late"][~np.isnan(record.rows["late"])].astype(np.float64)
    wakes = np.frombuffer(driven.wakes, np.float64) if driven.wakes else np.zeros(1)
    return GeneratorFigures(
        late_sends=_p99(sends),
        late_wakes=_p99(wakes),
        latest=float(max(sends.max(initial=0.0), wakes.max(initial=0.0))),
        dropped=driven.dropped,
        most_open=driven.most_open,
        peak_bytes=peak_memory(),
    )


def _p99(seconds: F64) -> float:
    return float(np.quantile(seconds, 0.99, method="inverted_cdf")) if len(seconds) else 0.0


def server(observed: Sequence[Observed]) -> ServerFigures:
    """What all addresses tell together. The highest values are added too, though each may be of another moment."""

    def grown(name: str, label: str | None = None) -> dict[str, float]:
        return _added([each.grown(name, label) for each in observed])

    hits, misses = grown(_HITS, "cache"), grown(_MISSES, "cache")
    sums, counts = grown(f"{_STAGE}_sum", "stage"), grown(f"{_STAGE}_count", "stage")
    tokens, cpu = grown(_TOKENS, "source"), grown(CPU)
    exposed = {name for each in observed for name, _ in each.after}
    wanted = (_HITS, _MISSES, _TOKENS, _SHED, f"{_STAGE}_sum", MEMORY)
    return ServerFigures(
        scrapes=sum(each.scrapes for each in observed),
        scrapes_failed=sum(each.failed for each in observed),
        caches=tuple(CacheFigures(name=n, hits=hits[n], misses=misses.get(n, 0.0)) for n in sorted(hits)),
        cached_tokens=tokens.get("cached", 0.0),
        computed_tokens=tokens.get("computed", 0.0),
        shed={reason: count for reason, count in grown(_SHED, "reason").items() if count},
        stages={stage: sums[stage] / count for stage, count in counts.items() if count and stage in sums},
        peaks=dict(sorted(_added([each.peaks for each in observed]).items())),
        cpu_seconds=cpu.get(""),
        missing=tuple(name for name in wanted if name not in exposed),
    )


def _added(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    totals: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for name, value in part.items():
            totals[name] += value
    return dict(totals)
