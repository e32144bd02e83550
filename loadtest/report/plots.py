"""Plots of a run and of a sweep, as SVG to stand within a page.

Knows matplotlib, records and reports. Does not know files or HTML.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loadtest.report.model import KneeReport, Report, Step
from loadtest.report.statistics import F64, Rows, answered, from_due, given_up, of_group
from loadtest.scenario import Scenario

_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "0.55"
_MOST_POINTS = 3000
"""Of a scatter; more make a page of megabytes."""
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def over_time(rows: Rows, scenario: Scenario) -> str:
    """Each answered round's latency where it was due, and where rounds failed."""
    figure, axes = _figure()
    for group, colour, label in (("first", _BLUE, "first rounds"), ("later", _ORANGE, "later rounds")):
        chosen = _thinned(rows[answered(rows) & of_group(rows, group)])
        axes.scatter(chosen["due"], from_due(chosen), s=7, color=colour, alpha=0.6, label=label, linewidths=0)
    failed = _thinned(rows[~answered(rows) & ~given_up(rows)])
    if len(failed):
        top = axes.get_ylim()[1] or 1.0
        axes.plot(failed["due"], np.full(len(failed), top), "x", color=_RED, markersize=5, label="failed")
    arrivals = scenario.arrivals
    axes.axvspan(arrivals.begins, arrivals.ends, color=_GREY, alpha=0.1, label="time measured", linewidth=0)
    axes.set(xlabel="when the round was due, s", ylabel="latency from then, s")
    axes.set_ylim(bottom=0)
    return _svg(figure, axes, "time")


def distribution(rows: Rows, scenario: Scenario) -> str:
    """Share of due rounds against latency: a curve ends where the failed rounds begin."""
    figure, axes = _figure()
    for group, colour in (("first", _BLUE), ("later", _ORANGE)):
        due = rows[of_group(rows, group) & ~given_up(rows)]
        seconds = np.sort(from_due(due[answered(due)]))
        if len(seconds):
            shares = np.arange(1, len(seconds) + 1) / len(due)
            seconds, shares = _outlined(seconds, shares)
            axes.step(seconds, shares, where="post", color=colour, label=f"{group} rounds")
    for wanted in scenario.objective.latency:
        label = f"objective, {wanted.rounds} rounds"
        axes.plot([wanted.within], [wanted.share], "v", color=_GREEN, markersize=8, label=label)
    axes.set(xlabel="latency from when the round was due, s", ylabel="share of due rounds", ylim=(0, 1.02))
    axes.set_xscale("log")
    return _svg(figure, axes, "distribution")


def throughput(report: Report) -> str:
    """Rounds a second: due, answered, in time, failed."""
    figure, axes = _figure()
    width = report.series[1].at if len(report.series) > 1 else report.scenario.arrivals.ends
    times = [second.at for second in report.series]
    lines = (("due", _GREY), ("answered", _BLUE), ("good", _GREEN), ("failed", _RED))
    for name, colour in lines:
        rates = [getattr(second, name) / width for second in report.series]
        axes.step(times, rates, where="post", color=colour, label=name, linewidth=1.2)
    axes.set(xlabel="when the round was due, s", ylabel="rounds a second")
    axes.set_ylim(bottom=0)
    return _svg(figure, axes, "throughput")


def by_index(report: Report) -> str:
    """Percentiles of each round index."""
    figure, axes = _figure()
    rounds = [found for found in report.rounds[1:] if found.from_due]
    for percent, marker, colour in ((50.0, "o-", _BLUE), (95.0, "s--", _ORANGE), (99.0, "^:", _RED)):
        points = [
            (int(found.name), at.seconds)
            for found in rounds
            for at in (found.from_due.percentiles if found.from_due else ())
            if at.percent == percent
        ]
        axes.plot([x for x, _ in points], [y for _, y in points], marker, color=colour, label=f"p{percent:g}")
    axes.set(xlabel="index of the round in its dialogue", ylabel="latency from when it was due, s")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure, axes, "index")


def goodput(report: KneeReport) -> str:
    """Answered and good rounds against those offered, at each rate that was tried."""
    figure, axes = _figure()
    steps = [step for step in (*report.steps, report.overload) if step]
    steps.sort(key=lambda step: step.offered_rate)
    offered = [step.offered_rate for step in steps]
    axes.plot(
        [0, max(offered, default=1)], [0, max(offered, default=1)], color=_GREY, linewidth=1, label="offered"
    )
    axes.plot(offered, [step.answered_rate for step in steps], "s--", color=_BLUE, label="answered")
    axes.plot(offered, [step.goodput for step in steps], "o-", color=_GREEN, label="goodput")
    if report.knee:
        axes.axvline(report.knee.offered_rate, color=_ORANGE, linestyle=":", label="knee")
    axes.set(xlabel="offered, rounds a second", ylabel="rounds a second")
    axes.set_ylim(bottom=0)
    return _svg(figure, axes, "goodput")


def sweep(steps: Sequence[Step]) -> str:
    """Latency against the offered rate."""
    figure, axes = _figure()
    for name, marker, colour in (("p50", "o-", _BLUE), ("p95", "s--", _ORANGE), ("p99", "^:", _RED)):
        told = [step for step in steps if getattr(step, name) is not None]
        points = sorted((step.offered_rate, getattr(step, name)) for step in told)
        axes.plot([x for x, _ in points], [y for _, y in points], marker, color=colour, label=name)
    axes.set(xlabel="offered, rounds a second", ylabel="latency from when it was due, s", yscale="log")
    return _svg(figure, axes, "sweep")


def _thinned(rows: Rows) -> Rows:
    """Every n-th, and always the slowest ones."""
    if len(rows) <= _MOST_POINTS:
        return rows
    some = np.linspace(0, len(rows) - 1, _MOST_POINTS).astype(np.int64)
    slowest = np.argsort(np.nan_to_num(from_due(rows)))[-_MOST_POINTS // 10 :]
    return rows[np.union1d(some, slowest)]


def _outlined(seconds: F64, shares: F64) -> tuple[F64, F64]:
    """At most 400 points, close together at the slow end."""
    if len(seconds) <= 400:
        return seconds, shares
    tail = np.unique(len(seconds) - np.geomspace(1, len(seconds), 400).astype(np.int64))
    return seconds[tail], shares[tail]


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    axes: Axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    return figure, axes


def _svg(figure: Figure, axes: Axes, salt: str) -> str:
    """``salt``: keeps the ids of one page's plots apart, and equal from run to run."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "path"}):
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
