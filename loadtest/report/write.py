"""A report as files: ``report.json``, and ``report.html`` with its plots.

Knows which table and plot stands where. Does not know how any of them is made.
"""

from __future__ import annotations

from pathlib import Path

from loadtest.record import Recording
from loadtest.report import html, plots, tables
from loadtest.report.html import Section
from loadtest.report.model import KneeReport, Report, write


def publish(report: Report, record: Recording, directory: Path) -> None:
    """Raises ReportError."""
    write(report, directory)
    arrivals = report.scenario.arrivals
    rows = record.rows[record.rows["due"] < arrivals.ends]
    measured = record.measured(arrivals.begins, arrivals.ends)
    server = tables.server(report)
    sections = [
        Section("Verdict", table=tables.checks(report.verdict)),
        Section("Rounds", [tables.ROUNDS_NOTE], plots.by_index(report), tables.rounds(report)),
        Section("Over time", svg=plots.over_time(rows, report.scenario)),
        Section("Distribution", svg=plots.distribution(measured, report.scenario)),
        Section("Throughput", svg=plots.throughput(report)),
        Section("How rounds ended", table=tables.outcomes(report)),
        Section("Caches", table=tables.caches(report)),
        *([Section("Server", table=server)] if server else []),
        Section("The load test itself", table=tables.generator(report)),
        Section("Scenario", [f"Digest {report.scenario_digest}"], text=report.scenario.model_dump_json(indent=1)),
    ]
    title = f"Load test: {report.scenario.name}"
    html.write(html.render(title, report.verdict.result, tables.notes(report), sections), directory)


def publish_knee(report: KneeReport, directory: Path) -> None:
    """Raises ReportError."""
    write(report, directory)
    sections = [
        Section("Verdict", table=tables.checks(report.verdict)),
        Section("Goodput", svg=plots.goodput(report)),
        Section("Latency", svg=plots.sweep(report.steps)),
        Section("Rates", table=tables.steps(report)),
        Section("Scenario", [f"Digest {report.scenario_digest}"], text=report.scenario.model_dump_json(indent=1)),
    ]
    title = f"Knee: {report.scenario.name}"
    html.write(html.render(title, report.verdict.result, tables.knee_notes(report), sections), directory)
