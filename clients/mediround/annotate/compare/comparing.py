"""Two runs compared: each structure's agreement, the biggest disagreements first, targets where they exist.

Knows the order of work. Does not know what is printed.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from mediround.annotate.compare.agreement import Agreement, Tally
from mediround.annotate.compare.pairs import Pair, PairedItem, Unpaired, dice, paired
from mediround.annotate.compare.targets import Nearness, nearness
from mediround.annotate.compare.verdict import Tolerances, Verdict, judged
from mediround.annotate.current import scratch
from mediround.annotate.errors import ItemError
from mediround.annotate.job import Job, Run
from mediround.annotate.loading import target_of
from mediround.annotate.manifest import read_manifest

_SCHEMA = """
CREATE TABLE targets (item_id TEXT, round INTEGER, uri TEXT, PRIMARY KEY (item_id, round)) WITHOUT ROWID;
CREATE TABLE images (image_id TEXT PRIMARY KEY, rounds INTEGER, earlier REAL, later REAL) WITHOUT ROWID;
"""
_ADD = """
INSERT INTO images VALUES (?, 1, ?, ?) ON CONFLICT (image_id) DO UPDATE SET
    rounds = rounds + 1, earlier = earlier + excluded.earlier, later = later + excluded.later
"""


@dataclass(frozen=True, slots=True, order=True)
class Disagreement:
    """One round; ``dice`` 0: only one run has a mask, or their sizes differ."""

    dice: float
    item_id: str
    round: int
    structure: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two runs have and have not in common.

    Attributes:
        earlier: key of the run.
        later: the same.
        items: in both.
        only_later: items that the earlier run has not.
        failed_earlier: items that failed there alone.
        failed_later: items that failed there alone.
        overall: of all structures.
        structures: by label, the least Dice first.
        disagreements: the biggest first.
        targets: None where no target exists.
        verdict: by the tolerances.
    """

    earlier: str
    later: str
    items: int
    only_later: int
    failed_earlier: int
    failed_later: int
    overall: Agreement
    structures: tuple[Agreement, ...]
    disagreements: tuple[Disagreement, ...]
    targets: Nearness | None
    verdict: Verdict


def compare(job: Job, earlier: Run, later: Run, tolerances: Tolerances, most: int = 100) -> Comparison:
    """Compare two runs of the same items.

    Args:
        job: whose manifest has the targets.
        most: disagreements listed.

    Raises:
        JobError: a run or the manifest cannot be read.
    """
    with _targets(job) as targets:
        work = _Work(targets, most)
        for found in paired(earlier, later):
            if isinstance(found, Unpaired):
                work.only_later += 1
            else:
                work.add(found)
        structures = sorted(
            (tally.agreement() for tally in work.tallies.values()),
            key=lambda each: (1.0 if each.dice is None else each.dice, each.structure),
        )
        near = targets.nearness()
    return Comparison(
        earlier=earlier.key,
        later=later.key,
        items=work.items,
        only_later=work.only_later,
        failed_earlier=work.failed_earlier,
        failed_later=work.failed_later,
        overall=work.overall.agreement(),
        structures=tuple(structures),
        disagreements=tuple(sorted(Disagreement(-each[0], *each[1:]) for each in work.worst)),
        targets=near,
        verdict=judged(structures, near, work.failed_later / work.items if work.items else 0.0, tolerances),
    )


class _Targets:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._unreadable = 0

    def keep(self, job: Job) -> None:
        for piece in read_manifest(job.manifest):
            values = [
                (item.item_id, number, each.truth)
                for item in piece
                for number, each in enumerate(item.questions)
                if each.truth
            ]
            self._database.executemany("INSERT OR REPLACE INTO targets VALUES (?, ?, ?)", values)

    def add(self, pair: Pair) -> None:
        words = "SELECT uri FROM targets WHERE item_id = ? AND round = ?"
        found = self._database.execute(words, (pair.item_id, pair.round)).fetchone()
        if found is None:
            return
        masks = pair.earlier.mask(), pair.later.mask()
        try:
            target = target_of(found[0])
        except ItemError:
            self._unreadable += 1
            return
        if any(mask is not None and mask.shape != target.shape for mask in masks):
            self._unreadable += 1
            return
        self._database.execute(_ADD, (pair.image_id, *(dice(mask, target) for mask in masks)))

    def nearness(self) -> Nearness | None:
        found = self._database.execute("SELECT rounds, earlier, later FROM images")
        flat = np.fromiter((value for row in found for value in row), np.float64).reshape(-1, 3)
        return nearness(flat[:, 0], flat[:, 1], flat[:, 2], self._unreadable)


@contextmanager
def _targets(job: Job) -> Iterator[_Targets]:
    with scratch(_SCHEMA) as database:
        targets = _Targets(database)
        targets.keep(job)
        yield targets


@dataclass(slots=True)
class _Work:
    targets: _Targets
    most: int
    items: int = 0
    only_later: int = 0
    failed_earlier: int = 0
    failed_later: int = 0
    overall: Tally = field(default_factory=lambda: Tally(""))
    tallies: dict[str, Tally] = field(default_factory=dict)
    worst: list[tuple[float, str, int, str]] = field(default_factory=list)
    """A heap: of those listed, the least disagreement first; Dice is negated."""

    def add(self, found: PairedItem) -> None:
        self.items += 1
        answered = found[0].earlier.answered, found[0].later.answered
        self.failed_earlier += answered == (False, True)
        self.failed_later += answered == (True, False)
        if not all(answered):
            return
        for pair in found:
            between = pair.dice()
            self.overall.add(pair, between)
            self.tallies.setdefault(pair.label, Tally(pair.label)).add(pair, between)
            self.targets.add(pair)
            if pair.earlier.counts is not None or pair.later.counts is not None:
                self._list(pair, between or 0.0)

    def _list(self, pair: Pair, between: float) -> None:
        if between == 1:
            return
        entry = (-between, pair.item_id, pair.round, pair.label)
        if len(self.worst) < self.most:
            heapq.heappush(self.worst, entry)
        elif entry > self.worst[0]:
            heapq.heapreplace(self.worst, entry)
