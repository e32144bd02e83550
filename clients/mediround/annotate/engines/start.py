"""What a start of a run has, whichever engine asks: the folder for its parts, its ledger, and what is left to do.

Knows the order in which a folder is taken up and left. Does not know how items are asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mediround.annotate import ledger as ledgers
from mediround.annotate import work
from mediround.annotate.engines.interface import Progress, RunOptions
from mediround.annotate.errors import JobError, OtherRun, Stopped
from mediround.annotate.files import remove_unfinished
from mediround.annotate.job import Job, Run
from mediround.annotate.ledger import Finished, Ledger
from mediround.annotate.merging import Merging, merge, settle
from mediround.annotate.work import Left


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a run.

    Attributes:
        folder: for its parts.
        ledger: nobody else's while it runs.
        left: what is to be asked.
        counts: how far the run is.
        notes: what is to be told of parts.
    """

    run: Run
    options: RunOptions
    folder: Path
    ledger: Ledger
    left: Left
    counts: Counts
    notes: Merging


@dataclass(slots=True)
class Counts:
    """How far a run is.

    Attributes:
        total: items that are this run's, or its shard's.
        before: finished by earlier starts, and not asked again.
        here: finished since.
        rounds: answered since.
    """

    total: int
    before: Finished
    here: Finished = field(default_factory=lambda: Finished(0, 0))
    rounds: int = 0

    @property
    def done(self) -> int:
        # An item may be finished twice: Ray repeats what an actor had under way that was lost.
        return min(self.total, self.before.all + self.here.all)

    def add(self, finished: Finished, rounds: int) -> None:
        self.here = Finished(self.here.ok + finished.ok, self.here.failed + finished.failed)
        self.rounds += rounds

    def progress(self, in_flight: int, waiting: str = "") -> Progress:
        return Progress(
            total=self.total,
            done=self.done,
            failed=self.before.failed + self.here.failed,
            here=self.here.all,
            in_flight=in_flight,
            rounds=self.rounds,
            waiting=waiting,
        )


@contextmanager
def started(job: Job, run: Run, options: RunOptions) -> Iterator[Start]:
    """Take a run's folder up while the block runs; what is finished is merged when it ends.

    Raises:
        JobError: another run is at work there, or it cannot be read.
        OtherRun: the block raised it.
        Stopped: it cannot be written or read any more: the block, or merging, raised another JobError.
    """
    shard = work.shard_name(options.shard)
    folder = run.shard_index(shard) if shard else run.index
    folder.mkdir(parents=True, exist_ok=True)

    def tidied() -> None:
        settle(folder)
        remove_unfinished(folder)

    with ledgers.opened(run, shard, before=tidied) as ledger:
        surveyed = work.survey(job, ledger, options.shard)
        left, found = Left(job, ledger, options.shard, surveyed, options.retry_failed), surveyed.finished
        counts = Counts(surveyed.total, Finished(found.ok, 0) if options.retry_failed else found)
        try:
            yield Start(run, options, folder, ledger, left, counts, Merging(folder, ledger))
            merge(folder, ledger)
        except OtherRun:
            raise
        except JobError as error:  # full, or something in it is damaged: its words say which
            raise Stopped(str(error)) from error
