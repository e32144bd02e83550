"""A report in words and tables, for the terminal and for the page alike.

Knows reports and how their figures are written for people. Does not know HTML, terminals or plots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.report.model import KneeReport, Latency, Report, Step, Verdict

_SHOWN = (50.0, 95.0, 99.0)
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def headline(report: Report | KneeReport) -> str:
    target = report.target
    records = "".join(f", engine record {record.digest[:12]}" for record in target.engine_records)
    return (
        f"{report.scenario.name} against {target.address}: {target.model_name} {target.model_version} "
        f"({target.model_digest[:12]}), server {target.server_version}, {target.language_engine}, "
        f"{target.vision_engine}{records}"
    )


def notes(report: Report) -> list[str]:
    return [
        headline(report),
        f"Started {report.started}, seed {report.seed}, load test on {report.machine}.",
        f"Rounds a second: {report.offered_rate:.2f} offered, {report.answered_rate:.2f} answered, "
        f"{report.goodput:.2f} within the objective.",
        *report.verdict.reasons,
    ]


def checks(verdict: Verdict) -> Table:
    words = {True: "yes", False: "NO", None: "-"}
    rows = [[c.what, c.wanted, c.found, words[c.met]] for c in verdict.checks]
    return Table(["objective", "wanted", "found", "met"], rows)


def rounds(report: Report) -> Table:
    header = [
        "round",
        "due",
        "answered",
        "in time",
        "given up",
        *(f"p{p:g} s" for p in _SHOWN),
        "max s",
        "sent p95 s",
    ]
    rows = [
        [r.name, str(r.due), str(r.answered), str(r.good), str(r.given_up)]
        + [_percentile(r.from_due, p) for p in _SHOWN]
        + [f"{r.from_due.largest:.3f}" if r.from_due else "-", _percentile(r.from_sent, 95.0)]
        for r in report.rounds
    ]
    return Table(header, rows)


ROUNDS_NOTE = (
    "Latencies of answered rounds, counted from when each was due. In brackets: 95 % confidence. "
    "Sent: counted from when it was sent, without the wait for an answer before it."
)


def outcomes(report: Report) -> Table:
    rows = [[name.replace("_", " "), str(count)] for name, count in report.outcomes.items()]
    rows.append(["told to come back later (whole run)", str(report.told_to_retry)])
    rows.append(["of those, did so", str(report.retried)])
    return Table(["rounds", "count"], rows)


def caches(report: Report) -> Table:
    seen = report.seen
    rows = [
        ["embedding, as answers say", _share(seen.embedding_hits, seen.answered)],
        ["prompt tokens, as answers say", _share(seen.cached_tokens, seen.prompt_tokens)],
    ]
    if server := report.server:
        rows += [[f"{c.name}, as the server counts", _share(c.hits, c.hits + c.misses)] for c in server.caches]
        tokens = server.cached_tokens + server.computed_tokens
        rows.append(["prompt tokens, as the server counts", _share(server.cached_tokens, tokens)])
    return Table(["cache", "hits"], rows)


def server(report: Report) -> Table | None:
    """What the server's metrics told; None without them."""
    found = report.server
    if found is None:
        return None
    rows = [[f"{stage}: mean", f"{seconds * 1000:.1f} ms"] for stage, seconds in found.stages.items()]
    rows += [[f"shed: {reason}", f"{count:g}"] for reason, count in found.shed.items()]
    rows += [[f"{name}: highest", _amount(name, value)] for name, value in found.peaks.items()]
    if found.cpu_seconds is not None:
        rows.append(["CPU time", f"{found.cpu_seconds:.1f} s"])
    rows.append(["scrapes, of which failed", f"{found.scrapes + found.scrapes_failed}, {found.scrapes_failed}"])
    if found.missing:
        rows.append(["not exposed", ", ".join(found.missing)])
    return Table(["server", ""], rows)


def generator(report: Report) -> Table:
    found, allowed = report.generator, report.scenario.generator
    rows = [
        ["requests sent late: 99th percentile", f"{found.late_sends * 1000:.1f} ms"],
        ["event loop woke late: 99th percentile", f"{found.late_wakes * 1000:.1f} ms"],
        ["latest", f"{found.latest * 1000:.1f} ms"],
        ["allowed: 99th percentiles", f"{allowed.late * 1000:.1f} ms"],
        ["dialogues under way at once, at most", str(found.most_open)],
        ["dialogues not sent", str(found.dropped)],
        ["peak memory of this process", f"{found.peak_bytes / _MIB:.0f} MiB"],
    ]
    return Table(["load test", ""], rows)


def steps(report: KneeReport) -> Table:
    header = [
        *("dialogues/s", "objective", "offered/s", "answered/s", "goodput/s", "in time"),
        *("p50 s", "p95 s", "p99 s", "exhausted", "server MiB"),
    ]
    rows = [_step(step) for step in report.steps]
    if report.overload:
        rows.append([f"{report.overload_factor:g}x: {report.overload.rate:g}", *_step(report.overload)[1:]])
    return Table(header, rows)


def knee_notes(report: KneeReport) -> list[str]:
    told = [headline(report), f"Started {report.started}, seed {report.seed}, load test on {report.machine}."]
    if report.knee:
        broken = f"it was missed at {report.broken.rate:g}" if report.broken else "it was missed at none tried"
        told.append(
            f"Knee: the objective was met at {report.knee.rate:g} dialogues a second "
            f"({report.knee.offered_rate:.2f} rounds a second); {broken}."
        )
    if report.goodput_share is not None:
        told.append(
            f"At {report.overload_factor:g} times the knee: goodput {report.goodput_share:.0%} of the knee's "
            f"(wanted {report.least_share:.0%})."
        )
    if report.memory_share is not None:
        allowed = f" (allowed {report.most_memory:.0%})" if report.most_memory is not None else ""
        told.append(f"Peak memory of the server there: {report.memory_share:.0%} of the knee's{allowed}.")
    return [*told, *report.verdict.reasons]


def _step(step: Step) -> list[str]:
    numbers = [
        f"{step.offered_rate:.2f}",
        f"{step.answered_rate:.2f}",
        f"{step.goodput:.2f}",
        f"{step.within:.1%}",
    ]
    latencies = ["-" if p is None else f"{p:.3f}" for p in (step.p50, step.p95, step.p99)]
    memory = "-" if step.peak_bytes is None else f"{step.peak_bytes / _MIB:.0f}"
    return [f"{step.rate:g}", step.result, *numbers, *latencies, str(step.exhausted), memory]


def _percentile(found: Latency | None, percent: float) -> str:
    at = next((p for p in found.percentiles if p.percent == percent), None) if found else None
    return f"{at.seconds:.3f} [{at.low:.3f}, {at.high:.3f}]" if at else "-"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%} of {whole:g}" if whole else "none looked up"


def _amount(name: str, value: float) -> str:
    return f"{value / _MIB:.0f} MiB" if name.endswith("_bytes") else f"{value:g}"


def plain(table: Table) -> str:
    """Columns of text."""
    lines: Sequence[Sequence[str]] = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
