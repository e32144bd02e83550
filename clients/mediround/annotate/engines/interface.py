"""The seam of engines: what a run is told, and what it tells.

Knows the values. Does not know any engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mediround._tls import Tls
from mediround.annotate.annotating import Asking
from mediround.annotate.job import Job, Run

STOPPED_BY_SIGNAL = "a signal asked it to stop"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run goes about its items.

    Attributes:
        server: HOST:PORT of the service.
        asking: how an item is asked.
        tls: of the service; None: plain.
        in_flight: most items asked at once.
        retry_failed: items that failed before are asked again.
        shard: (i, n): only items whose name falls to part i of n, from 0.
        max_failures: items that may fail before the run is given up; None: any number.
        max_failure_share: the same as a share of those finished, 0 to 1, once there are enough of them.
        rate: most rounds begun a second; None: any.
        window: (begin, end) in minutes of the day, local time, within which items are begun; None: always.
        grace: seconds that items under way are given when the run is stopped.
    """

    server: str
    asking: Asking
    tls: Tls | None = None
    in_flight: int = 8
    retry_failed: bool = False
    shard: tuple[int, int] | None = None
    max_failures: int | None = None
    max_failure_share: float | None = None
    rate: float | None = None
    window: tuple[int, int] | None = None
    grace: float = 30.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        total: items of the manifest that are this run's (its shard's).
        done: finished, those of earlier starts included.
        failed: of those, without a result.
        here: finished since this start.
        in_flight: asked now.
        rounds: answered since this start.
        waiting: why nothing is begun now: ``window``, ``rate``, ``service``; empty: it goes on.
    """

    total: int
    done: int
    failed: int
    here: int
    in_flight: int
    rounds: int = 0
    waiting: str = ""


class Watch(Protocol):
    """Told where a run stands, after each finished item and while it waits; must return at once."""

    def __call__(self, progress: Progress) -> None: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended.

    Attributes:
        progress: at its end.
        seconds: that this start took.
        stopped: why it ended before all items were finished; empty: it did not.
        failures: those of ``progress.failed`` by error code; where failed ones are asked again, also those that
            were not asked yet.
    """

    progress: Progress
    seconds: float
    stopped: str
    failures: dict[str, int]


class Engine(Protocol):
    """Schedules items. Finished items are in the index when it returns or raises."""

    def run(self, job: Job, run: Run, options: RunOptions, watch: Watch) -> Summary:
        """Finish all items that are not finished.

        Raises:
            JobError: the job cannot be read or written.
            MediRoundError: the service is not what the run needs, or cannot be reached for good.
        """
