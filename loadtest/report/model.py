"""The report of a run as values, and how it is kept: ``report.json``.

Knows the form. Does not know how figures are worked out (``loadtest.report.statistics``) or drawn. Seconds
throughout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from loadtest.scenario import Scenario
from mediround import EngineRecord

FILE = "report.json"
PAGE = "report.html"
MAX_BYTES = 32 << 20

Value = FiniteFloat
Count = Annotated[int, Field(ge=0)]


class ReportError(Exception):
    """A report cannot be read or written; the message names the file."""


class ReportModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Percentile(ReportModel):
    """By nearest rank: one of the values that were measured."""

    percent: Value
    seconds: Value
    low: Value
    high: Value
    """Where it lies with 95 % confidence, by order statistics."""


class Latency(ReportModel):
    """Of answered rounds."""

    percentiles: tuple[Percentile, ...]
    mean: Value
    largest: Value


class RoundFigures(ReportModel):
    """Of the rounds of one index, or of all, that were due in the time measured."""

    name: str
    """``all``, or the index in the dialogue, from 0."""
    due: Count
    answered: Count
    good: Count
    """Answered within the objective's limit."""
    given_up: Count
    """Cancelled, or past their short deadline, as planned."""
    from_due: Latency | None
    """From when the round was due to its answer. None where none was answered."""
    from_sent: Latency | None
    """From when it was sent: without the wait for an answer before it. It flatters a slow server."""


class Second(ReportModel):
    """One interval of the run; rounds are counted where they were due."""

    at: Value
    due: Count
    answered: Count
    good: Count
    failed: Count


class CacheFigures(ReportModel):
    name: str
    hits: Value
    misses: Value

    @property
    def rate(self) -> float | None:
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else None


class ServerFigures(ReportModel):
    """From the server's metrics, between the beginning of the time measured and the end of its last round."""

    scrapes: Count
    scrapes_failed: Count
    caches: tuple[CacheFigures, ...]
    cached_tokens: Value
    computed_tokens: Value
    shed: dict[str, Value]
    stages: dict[str, Value]
    """Mean seconds of each stage that took place."""
    peaks: dict[str, Value]
    """Highest values of gauges, read once a second; of several addresses the sum of each one's highest."""
    cpu_seconds: Value | None
    missing: tuple[str, ...]
    """Metrics that a report shows and that the server does not expose."""


class SeenFigures(ReportModel):
    """What answers said of the server's caches."""

    embedding_hits: Count
    answered: Count
    cached_tokens: Count
    prompt_tokens: Count


class GeneratorFigures(ReportModel):
    """How well this side kept to the plan."""

    late_sends: Value
    """99th percentile of the seconds from when a request could be sent to when it was."""
    late_wakes: Value
    """99th percentile of how late the event loop woke."""
    latest: Value
    dropped: Count
    """Dialogues that were not sent."""
    most_open: Count
    peak_bytes: Count
    """Most memory that this process held so far."""


class Check(ReportModel):
    what: str
    wanted: str
    found: str
    met: bool | None
    """None: not looked at."""


class Verdict(ReportModel):
    result: Literal["met", "missed", "invalid"]
    """``invalid``: the figures tell of the load test's own machine; see ``reasons``."""
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]


class Target(ReportModel):
    address: str
    model_name: str
    model_version: str
    model_digest: str
    server_version: str
    language_engine: str
    vision_engine: str
    engine_records: tuple[EngineRecord, ...] = ()
    """What computed rounds when the run began, whole."""


class Report(ReportModel):
    kind: Literal["run"] = "run"
    scenario: Scenario
    scenario_digest: str
    seed: int
    target: Target
    started: str
    """UTC, ISO 8601."""
    machine: str
    seconds: Value
    rounds: tuple[RoundFigures, ...]
    """``all`` first."""
    offered_rate: Value
    """Rounds due a second."""
    answered_rate: Value
    goodput: Value
    """Rounds a second that were answered within the objective's limit."""
    outcomes: dict[str, Count]
    told_to_retry: Count
    """Answers, of the whole run, that named a time to come back after."""
    retried: Count
    """Of those, the ones that were followed."""
    target_gone: bool
    """It could not be reached for so long that the rest was not asked."""
    seen: SeenFigures
    server: ServerFigures | None
    """None: no address of metrics was given."""
    generator: GeneratorFigures
    series: tuple[Second, ...]
    verdict: Verdict

    @property
    def overall(self) -> RoundFigures:
        return self.rounds[0]


class Step(ReportModel):
    """One rate of a sweep."""

    rate: Value
    """Dialogues a second."""
    result: Literal["met", "missed", "invalid"]
    offered_rate: Value
    answered_rate: Value
    goodput: Value
    within: Value
    """Share of due rounds that were good."""
    p50: Value | None
    p95: Value | None
    p99: Value | None
    exhausted: Count
    """Rounds that ended with RESOURCE_EXHAUSTED."""
    peak_bytes: Value | None
    """Of the server; None where its metrics do not tell."""
    folder: str


class KneeReport(ReportModel):
    kind: Literal["knee"] = "knee"
    scenario: Scenario
    scenario_digest: str
    seed: int
    target: Target
    started: str
    machine: str
    steps: tuple[Step, ...]
    """In the order of the rates."""
    knee: Step | None
    """The highest rate at which the objective was met; None: it was not met at any."""
    broken: Step | None
    """The lowest above it at which it was missed; None: it was met at the highest rate allowed."""
    overload: Step | None
    """A run at ``overload_factor`` times the knee."""
    overload_factor: Value
    goodput_share: Value | None
    """The overload run's goodput by the knee's."""
    least_share: Value
    memory_share: Value | None = None
    """The overload run's peak resident memory by the knee's; None where the server's metrics do not tell."""
    most_memory: Value | None = None
    """That it may be; None: a report from before it was looked at."""
    verdict: Verdict


Kept = TypeVar("Kept", Report, KneeReport)


def writable(directory: Path) -> None:
    """Make the directory. Raises ReportError when a report could not be written into it."""
    probe = directory / ".loadtest"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ReportError(f"{directory}: {error.strerror or error}: the report could not be written") from error


def write(report: Report | KneeReport, directory: Path) -> None:
    """``report.json``. Raises ReportError."""
    try:
        (directory / FILE).write_text(report.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise ReportError(f"{directory / FILE}: {error.strerror or error}") from error


def read(path: Path, form: type[Kept]) -> Kept:
    """Read a report; ``path`` is the file or its directory. Raises ReportError."""
    file = path / FILE if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ReportError(f"{file}: larger than {MAX_BYTES} bytes")
        return form.model_validate_json(text)
    except OSError as error:
        raise ReportError(f"{file}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "report"
        raise ReportError(f"{file}: not a report of this version: {where}: {first['msg']}") from error
