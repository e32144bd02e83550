"""What a load test asks of a server: one TOML file, checked before anything is sent.

Knows the fields, their bounds and their units (seconds, dialogues a second). Does not know how a scenario is
drawn (``loadtest.plan``) or driven.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

MAX_FILE_BYTES = 64 << 10
MAX_ROUNDS = 2_000_000
"""Of one run: their record takes 40 bytes each."""
MAX_SECONDS = 86_400.0

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Seconds = Annotated[FiniteFloat, Field(ge=0, le=MAX_SECONDS)]
SomeSeconds = Annotated[FiniteFloat, Field(gt=0, le=MAX_SECONDS)]
Weight = Annotated[FiniteFloat, Field(ge=0, le=1e6)]
RoundCount = Annotated[int, Field(ge=1, le=64)]
Group: TypeAlias = Literal["first", "later", "all"]
"""Of rounds: those that open a dialogue, the others, or both."""


class ScenarioError(Exception):
    """The file cannot be used; the message names the file, and each field that must change."""


class ScenarioSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Arrivals(ScenarioSection):
    """When dialogues begin, whatever the server does."""

    process: Literal["poisson", "constant", "burst"] = "poisson"
    """``burst``: ``burst`` dialogues at the same moment, as often as ``rate`` asks for on average."""
    rate: Annotated[FiniteFloat, Field(gt=0, le=10_000)]
    """Dialogues a second."""
    burst: Annotated[int, Field(ge=1, le=1000)] = 10
    ramp: Seconds = 0.0
    """In which the rate rises evenly from nothing. No part of the figures."""
    warm_up: Seconds = 0.0
    """At the full rate. No part of the figures. At least as long as a dialogue, for a steady state."""
    duration: SomeSeconds
    """At the full rate: rounds that are due in it make the figures."""

    @property
    def begins(self) -> float:
        """Seconds from the start at which the figures begin."""
        return self.ramp + self.warm_up

    @property
    def ends(self) -> float:
        return self.begins + self.duration


class Shapes(ScenarioSection):
    """How often a dialogue takes each shape; weights, of any sum."""

    chain: Weight = 1.0
    """Each round refers to the one before."""
    star: Weight = 0.0
    """Each round refers to the first."""
    none: Weight = 0.0
    """No round refers."""
    mixed: Weight = 0.0
    """Each round refers to any earlier one, or to none."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not any((self.chain, self.star, self.none, self.mixed)):
            raise ValueError("give one shape a weight above 0")
        return self


class Dialogues(ScenarioSection):
    """What is asked in one dialogue."""

    mode: Literal["live", "known"] = "live"
    """``live``: round by round, as a person asks. ``known``: the whole dialogue in one call."""
    rounds: tuple[RoundCount, RoundCount] = (3, 6)
    """Least and most; each number between is as likely."""
    shapes: Shapes = Shapes()
    answers: Literal["forced", "free"] = "forced"
    """``forced``: each question comes with words that name what it asks for. ``free``: the model's own words;
    then each round of a known dialogue is a language pass of its own."""
    think: Seconds = 2.0
    """Mean time between the rounds of a live dialogue."""
    first_think: Seconds = 0.0
    """Mean time from the start of a live dialogue, when its session is opened, to its first question."""
    think_spread: Share = 0.5
    """Think times lie evenly within this share on both sides of the mean."""
    pace: Literal["schedule", "answer"] = "schedule"
    """``schedule``: a round is due one think time after the one before was DUE, and a late answer makes it
    late: the wait counts. ``answer``: after the one before was ANSWERED; then a slow server is asked less."""
    batch_share: Share = 0.0
    """Of dialogues, those that ask with priority ``batch``."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.rounds[0] > self.rounds[1]:
            raise ValueError("rounds is [least, most]")
        return self


class Images(ScenarioSection):
    """What is asked about."""

    pictures: str | None = None
    """Files to begin with, as a pattern relative to the scenario's own folder; None: synthetic images."""
    size: tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]] = (512, 512)
    """Height and width of synthetic images."""
    encoding: Literal["png", "raw"] = "raw"
    """How an image is sent."""
    reuse: Share = 0.0
    """Of dialogues, those on an image that was sent before in this run; the others' images are all new."""
    pool: Annotated[int, Field(ge=1, le=256)] = 32
    """The newest images, among which a reused one is drawn."""


class Calls(ScenarioSection):
    """How the caller behaves."""

    timeout: SomeSeconds = 30.0
    """Of one call."""
    retry: Literal["honour", "count"] = "honour"
    """Told to come back later: do so after the time named, or give up at once. Either is counted."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 4
    """Of one call, when honoured."""
    cancel_share: Share = 0.0
    """Of rounds (live) or dialogues (known), those that are given up ``cancel_after`` seconds after they were
    sent, if they are not answered by then."""
    cancel_after: SomeSeconds = 0.1
    deadline_share: Share = 0.0
    """The same with a deadline of ``deadline`` seconds for all attempts, of which the server is told."""
    deadline: SomeSeconds = 0.1

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.cancel_share + self.deadline_share > 1:
            raise ValueError("cancel_share and deadline_share are of different rounds: together at most 1")
        return self


class LatencyObjective(ScenarioSection):
    rounds: Group = "all"
    share: Annotated[FiniteFloat, Field(gt=0, le=1)]
    """Of the rounds that were due, answered or not."""
    within: SomeSeconds
    """Counted from when the round was due."""


class Objective(ScenarioSection):
    answered: Share = 0.99
    """Least share of due rounds that are answered. Rounds given up as planned do not count."""
    latency: Annotated[tuple[LatencyObjective, ...], Field(max_length=16)] = ()


class Generator(ScenarioSection):
    """What makes a run invalid: then its figures tell of the load test's own machine."""

    late: SomeSeconds = 0.05
    """The 99th percentile of how late a request was sent, and of how late the event loop woke."""
    max_open: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Dialogues under way; further ones are dropped, which makes the run invalid."""


class Scenario(ScenarioSection):
    name: Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9 ._-]+$")]
    arrivals: Arrivals
    dialogues: Dialogues = Dialogues()
    images: Images = Images()
    calls: Calls = Calls()
    objective: Objective = Objective()
    generator: Generator = Generator()

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        arrivals = self.arrivals
        if arrivals.rate * arrivals.ends * self.dialogues.rounds[1] > MAX_ROUNDS:
            raise ValueError(f"more than {MAX_ROUNDS} rounds: lower arrivals.rate or arrivals.duration")
        return self

    @property
    def digest(self) -> str:
        """SHA-256, hex: equal for equal scenarios, however their files are written."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def at(self, *, rate: float | None = None, duration: float | None = None) -> Scenario:
        """The same at another rate or for another time. Raises ScenarioError."""
        changed = {"rate": rate, "duration": duration}
        given = self.model_dump(mode="json")
        given["arrivals"] |= {name: value for name, value in changed.items() if value is not None}
        return _checked(given, "--rate or --duration")


def read(path: Path) -> Scenario:
    """Read a scenario's file.

    Raises:
        ScenarioError: it cannot be read, is no TOML, or a field is missing, unknown or out of bounds.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ScenarioError(f"{path}: larger than {MAX_FILE_BYTES} bytes; is it a scenario?")
        return _checked(tomllib.loads(text.decode()), str(path))
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise ScenarioError(f"{path}: nested too deeply; is it a scenario?") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ScenarioError(f"{path}: not TOML: {error}") from error


def _checked(given: object, source: str) -> Scenario:
    try:
        # By way of JSON, so that lists may stand for tuples where all else is strict.
        return Scenario.model_validate_json(json.dumps(given, default=str))
    except ValidationError as error:
        lines = (
            f"{source}: {'.'.join(map(str, problem['loc'])) or 'scenario'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise ScenarioError("\n".join(lines)) from error
