"""Two runs compared: each structure's agreement, the biggest disagreements first, targets where they exist.

Knows the order of work. Does not know what is printed.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from mediround.annotate.compare.agreement import Agreement, Tally
from mediround.annotate.compare.pairs import Pair, PairedItem, Unpaired, dice, paired
from mediround.annotate.compare.targets import F64, Nearness, nearness
from mediround.annotate.compare.verdict import Evidence, Tolerances, Verdict, judged
from mediround.annotate.errors import ItemError, JobError
from mediround.annotate.job import Job, Run
from mediround.annotate.loading import target_of
from mediround.annotate.manifest import read_manifest
from mediround.annotate.planned import planned
from mediround.annotate.sorting import Names, scratch

_SCHEMA = """
CREATE TABLE targets (item_id TEXT, round INTEGER, uri TEXT, PRIMARY KEY (item_id, round)) WITHOUT ROWID;
CREATE TABLE images (
    structure TEXT, image_id TEXT, rounds INTEGER, earlier REAL, later REAL, PRIMARY KEY (structure, image_id)
) WITHOUT ROWID;
"""
_MOST_STRUCTURES = 1000
OTHERS = "other structures"
"""Those that come after so many."""
Heard: TypeAlias = Callable[[str, float], None]
"""Is told of each item that a run answered, and of its disagreement: 1 minus its least Dice, 1 where one run alone
has a mask, 0 where none draws anything.
"""
_OF_STRUCTURE = "SELECT rounds, earlier, later FROM images WHERE structure = ?"
_OF_ALL = "SELECT sum(rounds), sum(earlier), sum(later) FROM images GROUP BY image_id"
_ADD = """
INSERT INTO images VALUES (?, ?, 1, ?, ?) ON CONFLICT (structure, image_id) DO UPDATE SET
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
        planned: items of the manifest.
        items: of them, in both.
        only_earlier: of them, those that the earlier run alone has.
        only_later: of them, those that the later run alone has.
        missing: of them, those that the later run has not (yet).
        not_planned: items of a run, or of both, that the manifest has not (any more): they count nowhere else.
        failed_earlier: items that failed there alone.
        failed_later: items that failed there alone.
        overall: of all structures.
        structures: by label, the least Dice first.
        disagreements: the biggest first.
        targets: how near both come to them, of all structures; None where no target was read.
        near: the same, of each structure that has any.
        unreadable: targets that could not be read, or are of another size than the masks.
        verdict: by the tolerances.
    """

    earlier: str
    later: str
    planned: int
    items: int
    only_earlier: int
    only_later: int
    missing: int
    not_planned: int
    failed_earlier: int
    failed_later: int
    overall: Agreement
    structures: tuple[Agreement, ...]
    disagreements: tuple[Disagreement, ...]
    targets: Nearness | None
    near: tuple[Nearness, ...]
    unreadable: int
    verdict: Verdict


def compare(
    job: Job, earlier: Run, later: Run, tolerances: Tolerances, *, most: int = 100, heard: Heard | None = None
) -> Comparison:
    """Compare two runs of the same items.

    Args:
        job: whose manifest has the items and their targets.
        most: disagreements listed.
        heard: is called for each item.

    Raises:
        JobError: a run or the manifest cannot be read, or both are one run.
    """
    if earlier.folder.resolve() == later.folder.resolve():
        raise JobError("two runs are needed, and both names are of one: name another run, or another job's")
    with planned(job) as names, _targets(job) as targets:
        work = _Work(names, targets, most, heard)
        for found in paired(earlier, later):
            work.take(found)
        overall, near = targets.overall(), targets.nearness(work.tallies)
        total = len(names)
    structures = sorted(
        (tally.agreement() for tally in work.tallies.values()),
        key=lambda each: (1.0 if each.dice is None else each.dice, each.structure),
    )
    missing = total - work.items - work.only_later
    found_out = Evidence(
        structures, overall, near, targets.unreadable, total, work.items, missing, work.failed_later
    )
    return Comparison(
        earlier=earlier.key,
        later=later.key,
        planned=total,
        items=work.items,
        only_earlier=work.only_earlier,
        only_later=work.only_later,
        missing=missing,
        not_planned=work.not_planned,
        failed_earlier=work.failed_earlier,
        failed_later=work.failed_later,
        overall=work.overall.agreement(),
        structures=tuple(structures),
        disagreements=tuple(sorted(Disagreement(-each[0], *each[1:]) for each in work.worst)),
        targets=overall,
        near=near,
        unreadable=targets.unreadable,
        verdict=judged(found_out, tolerances),
    )


class _Targets:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.unreadable = 0
        self._readable: Counter[str] = Counter()
        self._empty: Counter[str] = Counter()

    def keep(self, job: Job) -> None:
        for piece in read_manifest(job.manifest):
            values = [
                (item.item_id, number, each.truth)
                for item in piece
                for number, each in enumerate(item.questions)
                if each.truth
            ]
            self._database.executemany("INSERT OR REPLACE INTO targets VALUES (?, ?, ?)", values)

    def add(self, pair: Pair, structure: str) -> None:
        words = "SELECT uri FROM targets WHERE item_id = ? AND round = ?"
        found = self._database.execute(words, (pair.item_id, pair.round)).fetchone()
        if found is None:
            return
        masks = pair.earlier.mask(), pair.later.mask()
        try:
            target = target_of(found[0])
        except ItemError:
            self.unreadable += 1
            return
        if any(mask is not None and mask.shape != target.shape for mask in masks):
            self.unreadable += 1
            return
        if pair.kind == "empty" and not target.any():
            self._empty[structure] += 1
            return
        self._readable[structure] += 1
        self._database.execute(_ADD, (structure, pair.image_id, *(dice(mask, target) for mask in masks)))

    def nearness(self, tallies: Mapping[str, Tally]) -> tuple[Nearness, ...]:
        """Of each structure with targets, and one of target and masks that is not empty, the one that lost most
        first.
        """
        found = []
        for each, count in self._readable.items():
            empty = self._empty[each]
            whole = count + empty == tallies[each].rounds
            found.append(nearness(each, *self._sums(_OF_STRUCTURE, each), empty=empty, whole=whole))
        return tuple(sorted(found, key=lambda each: (each.change, each.structure)))

    def overall(self) -> Nearness | None:
        sums = self._sums(_OF_ALL)
        return nearness("", *sums, empty=self._empty.total(), whole=False) if len(sums[0]) else None

    def _sums(self, words: str, *values: str) -> F64:
        """Of images, (3, N): rounds, and sums of Dice of the earlier and the later run."""
        found = self._database.execute(words, values)
        return np.fromiter((value for row in found for value in row), np.float64).reshape(-1, 3).T


@contextmanager
def _targets(job: Job) -> Iterator[_Targets]:
    with scratch(_SCHEMA) as database:
        targets = _Targets(database)
        targets.keep(job)
        yield targets


@dataclass(slots=True)
class _Work:
    planned: Names
    targets: _Targets
    most: int
    heard: Heard | None = None
    items: int = 0
    only_earlier: int = 0
    only_later: int = 0
    not_planned: int = 0
    failed_earlier: int = 0
    failed_later: int = 0
    overall: Tally = field(default_factory=lambda: Tally(""))
    tallies: dict[str, Tally] = field(default_factory=dict)
    worst: list[tuple[float, str, int, str]] = field(default_factory=list)
    """A heap: of those listed, the least disagreement first; Dice is negated."""

    def take(self, found: PairedItem | Unpaired) -> None:
        if (found.item_id if isinstance(found, Unpaired) else found[0].item_id) not in self.planned:
            self.not_planned += 1
        elif not isinstance(found, Unpaired):
            self._add(found)
        elif found.later:
            self.only_later += 1
        else:
            self.only_earlier += 1

    def _add(self, found: PairedItem) -> None:
        self.items += 1
        answered = found[0].earlier.answered, found[0].later.answered
        self.failed_earlier += answered == (False, True)
        self.failed_later += answered == (True, False)
        apart = [0.0]
        for pair in found:
            between = pair.dice()
            if pair.kind != "empty":
                apart.append(1 - (between or 0.0))
            if all(answered):
                self._count(pair, between)
        if self.heard is not None and any(answered):
            self.heard(found[0].item_id, max(apart))

    def _count(self, pair: Pair, between: float | None) -> None:
        label = pair.label
        if label not in self.tallies and len(self.tallies) >= _MOST_STRUCTURES:
            label = OTHERS
        self.overall.add(pair, between)
        self.tallies.setdefault(label, Tally(label)).add(pair, between)
        self.targets.add(pair, label)
        if pair.kind != "empty":
            self._list(pair, between or 0.0)

    def _list(self, pair: Pair, between: float) -> None:
        if between == 1:
            return
        entry = (-between, pair.item_id, pair.round, pair.label)
        if len(self.worst) < self.most:
            heapq.heappush(self.worst, entry)
        elif entry > self.worst[0]:
            heapq.heapreplace(self.worst, entry)
