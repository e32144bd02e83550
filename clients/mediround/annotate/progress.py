"""How a run tells where it stands: a bar for people, lines for schedulers, a file for Prometheus.

Knows how each is written, and that nothing of it may hold up or end a run. Does not know engines. Says numbers,
the run's key and its shard; nothing of items.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from mediround.annotate.engines.interface import STOPPED_BY_SIGNAL, Progress
from mediround.annotate.errors import JobError
from mediround.annotate.files import write_atomic

Form: TypeAlias = Literal["bar", "json", "none"]
Reason: TypeAlias = Literal["finished", "signal", "failures", "error"]
"""Why a run ended: all items are finished, a signal, too many items failed, or it cannot go on."""
SECONDS_A_LINE = 10.0
"""Between lines, and between writings of the file."""
_SECONDS_OF_RATE = 60.0
"""That a rate is taken over."""
_NOWHERE = Progress(0, 0, 0, 0, 0)
_WAITS = ("window", "rate", "service")
_REASONS: tuple[Reason, ...] = ("finished", "signal", "failures", "error")


def default_form(stream: TextIO) -> Form:
    """A bar where somebody looks."""
    return "bar" if stream.isatty() else "json"


@dataclass(slots=True)
class Rate:
    """Items a second over the last minute, and what is left at that rate."""

    clock: Callable[[], float] = time.monotonic
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def items_a_second(self, progress: Progress) -> float:
        """To be asked every second or so."""
        now = self.clock()
        self._seen.append((now, progress.here))
        while now - self._seen[0][0] > _SECONDS_OF_RATE:
            self._seen.popleft()
        began, before = self._seen[0]
        return (progress.here - before) / (now - began) if now > began else 0.0


def seconds_left(progress: Progress, rate: float) -> float | None:
    """None: nobody can say."""
    left = progress.total - progress.done
    return None if left and not rate else left / rate if left else 0.0


@contextmanager
def shown(
    form: Form, run_key: str, *, shard: str = "", metrics: Path | None = None, stream: TextIO = sys.stderr
) -> Iterator[Teller]:
    """What an engine tells of a run, shown on ``stream`` while the block runs, and once more at its end.

    The block gets a ``Watch`` for the engine, which is also told how the run ended.

    Args:
        shard: ``i-of-n``; empty for a run that is not cut.
        metrics: a file for node_exporter's textfile collector, ``*.prom``.

    Raises:
        JobError: the file cannot be written.
    """
    teller = Teller(form, run_key, shard, metrics, stream)
    teller.write_metrics(running=True)
    ended = threading.Event()
    thread = threading.Thread(target=teller.tell_until, args=(ended,), name="progress", daemon=True)
    thread.start()
    try:
        yield teller
    except BaseException as error:
        teller.reason = "signal" if isinstance(error, KeyboardInterrupt) else "error"
        raise
    finally:
        ended.set()
        thread.join()


@dataclass(slots=True)
class Teller:
    """Tells of a run; a ``Watch``."""

    form: Form
    run_key: str
    shard: str
    metrics: Path | None
    stream: TextIO
    latest: Progress = _NOWHERE
    rate: Rate = field(default_factory=Rate)
    reason: Reason | None = None

    def __call__(self, progress: Progress) -> None:
        self.latest = progress

    def ended(self, stopped: str) -> None:
        """``stopped``: as in ``Summary``."""
        self.reason = "failures" if stopped else "finished"
        if stopped == STOPPED_BY_SIGNAL:
            self.reason = "signal"

    def tell_until(self, ended: threading.Event) -> None:
        """In a thread of its own, so that a run that stands still is told of as well."""
        if self.form == "bar":
            self._bar(ended)
        else:
            self._lines(ended)
        with suppress(JobError):
            self.write_metrics(running=False)

    def write_metrics(self, *, running: bool) -> None:
        """Raises JobError."""
        if self.metrics is not None:
            reason = None if running else self.reason
            text = exposition(self.latest, self.run_key, self.shard, running=running, reason=reason)
            write_atomic(self.metrics, text.encode())

    def _lines(self, ended: threading.Event) -> None:
        since = 0.0
        while not ended.wait(1.0):
            since += 1.0
            rate = self.rate.items_a_second(self.latest)
            if since >= SECONDS_A_LINE:
                self._line(rate)
                self._measured()
                since = 0.0
        self._line(self.rate.items_a_second(self.latest))

    def _line(self, rate: float) -> None:
        if self.form == "json":
            with suppress(OSError, ValueError):  # nobody reads any more
                print(line(self.latest, rate), file=self.stream, flush=True)

    def _bar(self, ended: threading.Event) -> None:
        words = TextColumn("{task.fields[words]}")
        with Bar(BarColumn(), MofNCompleteColumn(), words, console=Console(file=self.stream)) as bar:
            task = bar.add_task("", total=None, words="")
            since, over = 0.0, False
            while not over:
                over = ended.wait(1.0)
                latest, rate = self.latest, self.rate.items_a_second(self.latest)
                bar.update(task, total=latest.total, completed=latest.done, words=summary(latest, rate))
                since += 1.0
                if since >= SECONDS_A_LINE:
                    self._measured()
                    since = 0.0

    def _measured(self) -> None:
        with suppress(JobError):  # the file's age says so; the run is worth more
            self.write_metrics(running=True)


def summary(progress: Progress, rate: float) -> str:
    """A bar's words."""
    left = seconds_left(progress, rate)
    words = [f"{rate:.3g} items/s", "" if left is None else f"{_duration(left)} left", f"{progress.failed} failed"]
    words.append(f"waits: {progress.waiting}" if progress.waiting else "")
    return ", ".join(filter(None, words))


def line(progress: Progress, rate: float) -> str:
    """One JSON object; ``seconds_left`` is null where nobody can say."""
    left = seconds_left(progress, rate)
    values = {
        "time": round(time.time(), 1),
        "total": progress.total,
        "done": progress.done,
        "failed": progress.failed,
        "here": progress.here,
        "rounds": progress.rounds,
        "in_flight": progress.in_flight,
        "items_per_second": round(rate, 3),
        "seconds_left": None if left is None else round(left, 1),
        "waiting": progress.waiting,
    }
    return json.dumps(values)


def exposition(
    progress: Progress, run_key: str, shard: str, *, running: bool, reason: Reason | None = None
) -> str:
    """Prometheus's text form, as of now; ``reason``: why the run ended."""
    run = f'run="{run_key[:12]}",shard="{shard}"'
    states = {
        "ok": progress.done - progress.failed,
        "failed": progress.failed,
        "left": progress.total - progress.done,
    }
    return "".join(
        [
            _metric("running", "gauge", "Whether the run is at work.", {run: int(running)}),
            _metric(
                "ended",
                "gauge",
                "Why the run ended: all is finished, a signal, too many failures, or it cannot go on.",
                {f'{run},reason="{each}"': int(reason == each) for each in _REASONS},
            ),
            _metric("written_timestamp_seconds", "gauge", "When this was written.", {run: round(time.time())}),
            _metric(
                "items", "gauge", "Items, by state.", {f'{run},state="{name}"': n for name, n in states.items()}
            ),
            _metric("finished_total", "counter", "Items finished since this start.", {run: progress.here}),
            _metric("rounds_total", "counter", "Rounds answered since this start.", {run: progress.rounds}),
            _metric("in_flight", "gauge", "Items asked now.", {run: progress.in_flight}),
            _metric(
                "waiting",
                "gauge",
                "Why no item is begun now: the hour, the rate that it may have, a service that is busy.",
                {f'{run},reason="{each}"': int(progress.waiting == each) for each in _WAITS},
            ),
        ]
    )


def _metric(name: str, kind: str, words: str, samples: dict[str, int]) -> str:
    head = f"# HELP mediround_annotate_{name} {words}\n# TYPE mediround_annotate_{name} {kind}\n"
    return head + "".join(f"mediround_annotate_{name}{{{labels}}} {value}\n" for labels, value in samples.items())


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
