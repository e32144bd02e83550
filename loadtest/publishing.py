"""A report as files: ``report.json``, and ``report.html`` with its plots.

Knows which table and plot stands where. Does not know how any of them is made.
"""

from __future__ import annotations

from pathlib import Path

from loadtest import page, plots, telling
from loadtest.page import Section
from loadtest.recording import Recording
from loadtest.report import KneeReport, Report, write


def publish(report: Report, record: Recording, directory: Path) -> None:
    """Raises ReportError."""
    write(report, directory)
    arrivals = report.scenario.arrivals
    rows = record.rows[record.rows["due"] < arrivals.ends]
    measured = record.measured(arrivals.begins, arrivals.ends)
    server = telling.server(report)
    sections = [
        Section("Verdict", table=telling.checks(report.verdict)),
        Section("Rounds", [telling.ROUNDS_NOTE], plots.by_index(report), telling.rounds(report)),
        Section("Over time", svg=plots.over_time(rows, report.scenario)),
        Section("Distribution", svg=plots.distribution(measured, report.scenario)),
        Section("Throughput", svg=plots.throughput(report)),
        Section("How rounds ended", table=telling.outcomes(report)),
        Section("Caches", table=telling.caches(report)),
        *([Section("Server", table=server)] if server else []),
        Section("The load test itself", table=telling.generator(report)),
        Section("Scenario", [f"Digest {report.scenario_digest}"], text=report.scenario.model_dump_json(indent=1)),
    ]
    title = f"Load test: {report.scenario.name}"
    page.write(page.render(title, report.verdict.result, telling.notes(report), sections), directory)


def publish_knee(report: KneeReport, directory: Path) -> None:
    """Raises ReportError."""
    write(report, directory)
    sections = [
        Section("Verdict", table=telling.checks(report.verdict)),
        Section("Goodput", svg=plots.goodput(report)),
        Section("Latency", svg=plots.sweep(report.steps)),
        Section("Rates", table=telling.steps(report)),
        Section("Scenario", [f"Digest {report.scenario_digest}"], text=report.scenario.model_dump_json(indent=1)),
    ]
    title = f"Knee: {report.scenario.name}"
    page.write(page.render(title, report.verdict.result, telling.knee_notes(report), sections), directory)
