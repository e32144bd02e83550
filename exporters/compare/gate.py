"""The accuracy gate: whether a candidate's masks may stand in for a baseline's.

Compares two runs of ``mediround evaluate`` on the same data and settings, mask by mask. Knows their reports and
results. Does not know bundles, engines, or how a run is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporters.errors import SourceError
from mediround.evaluate import Run, RunError, ledger, report
from mediround.evaluate.ledger import ItemRecord, RoundRecord
from mediround.evaluate.metrics import Overlap, metrics
from mediround.rle import MalformedRle

_SETTINGS = ("policy", "answers")


class NotComparableError(SourceError):
    """The runs differ in more than model and engines. Evaluate both on the same data with the same settings."""


@dataclass(frozen=True, slots=True)
class GateTolerance:
    """Largest losses that pass."""

    dice: float = 0.005
    """Over all masks, and over those of each round index."""
    flipped: float = 0.001
    """Share of the pixels of all masks."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A finished run: what was run on which data, and the items evaluated, by their index in it."""

    run: Run
    data_digest: str
    items: Mapping[int, ItemRecord]


@dataclass(frozen=True, slots=True)
class Pair:
    """One mask of the baseline and the candidate's in its place."""

    item: int
    round: int
    baseline: Overlap
    """With the target."""
    candidate: Overlap
    flipped: int
    pixels: int
    answered_otherwise: bool
    """Other words, or a mask in one run alone."""

    @property
    def loss(self) -> float:
        """Of Dice."""
        return self.baseline.dice - self.candidate.dice


@dataclass(frozen=True, slots=True)
class Change:
    """Of all masks, or of those of one round index."""

    masks: int
    baseline_dice: float
    candidate_dice: float
    flipped_share: float
    answered_otherwise: int

    @property
    def loss(self) -> float:
        return self.baseline_dice - self.candidate_dice


@dataclass(frozen=True, slots=True)
class GateVerdict:
    overall: Change
    by_round: tuple[Change, ...]
    pairs: tuple[Pair, ...]
    problems: tuple[str, ...]
    """Why the candidate does not pass."""

    def most_moved(self, count: int) -> list[Pair]:
        """The masks with the most flipped pixels for their size."""
        moved = [pair for pair in self.pairs if pair.flipped]
        return sorted(moved, key=lambda pair: pair.flipped / pair.pixels, reverse=True)[:count]


def read(path: Path) -> Evaluated:
    """Read a run from its ``report.json``, or from the directory that holds it. Raises SourceError."""
    directory = path if path.is_dir() else path.parent
    made, results = directory / report.FILE, directory / ledger.FILE
    try:
        data = json.loads(made.read_text())["data"]
        records = {record.key: record for record in ledger.read_records(results)}
        items = {index: records[key] for index, key in enumerate(data["keys"]) if key in records}
        return Evaluated(ledger.read_run(results), data["digest"], items)
    except OSError as error:
        raise SourceError(f"{error.filename}: cannot be read; the gate takes finished runs of evaluate") from error
    except RunError as error:
        raise SourceError(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{made}: is no report of mediround evaluate; run it again") from error


def judge(baseline: Evaluated, candidate: Evaluated, tolerance: GateTolerance) -> GateVerdict:
    """Compare two runs. Raises NotComparableError, and SourceError for a stored mask that cannot be read."""
    _check_comparable(baseline, candidate)
    pairs = tuple(_pairs(baseline, candidate))
    if not pairs:
        raise NotComparableError("no item was evaluated in both runs")
    rounds = range(1 + max(pair.round for pair in pairs))
    by_round = tuple(_change([pair for pair in pairs if pair.round == number]) for number in rounds)
    overall = _change(pairs)
    problems = [f"all rounds: {problem}" for problem in _loss(overall, tolerance)]
    problems += [
        f"round {n}: {problem}" for n, change in enumerate(by_round) for problem in _loss(change, tolerance)
    ]
    if overall.flipped_share > tolerance.flipped:
        problems.append(f"{overall.flipped_share:.4%} of the pixels flipped (tolerated: {tolerance.flipped:.4%})")
    if missing := baseline.items.keys() - candidate.items.keys():
        problems.append(f"{len(missing)} items of the baseline have no result: see the candidate's failures")
    return GateVerdict(overall, by_round, pairs, tuple(problems))


def _check_comparable(baseline: Evaluated, candidate: Evaluated) -> None:
    if baseline.data_digest != candidate.data_digest:
        raise NotComparableError("the runs are of different data: evaluate both on the same data set")
    for name in _SETTINGS:
        ours, theirs = getattr(baseline.run, name), getattr(candidate.run, name)
        if ours != theirs:
            raise NotComparableError(f"{name} is {ours} in the baseline and {theirs} in the candidate")


def _pairs(baseline: Evaluated, candidate: Evaluated) -> Iterator[Pair]:
    for index, item in baseline.items.items():
        if other := candidate.items.get(index):
            for number, (ours, theirs) in enumerate(zip(item.rounds, other.rounds, strict=True)):
                yield _pair(index, number, ours, theirs)


def _pair(item: int, number: int, ours: RoundRecord, theirs: RoundRecord) -> Pair:
    try:
        flipped = int(np.count_nonzero(ours.mask() != theirs.mask()))
    except MalformedRle as error:
        raise SourceError(f"item {item}, round {number}: a stored mask is damaged ({error})") from error
    return Pair(
        item=item,
        round=number,
        baseline=ours.overlap,
        candidate=theirs.overlap,
        flipped=flipped,
        pixels=ours.height * ours.width,
        answered_otherwise=(ours.answer, ours.status) != (theirs.answer, theirs.status),
    )


def _change(pairs: Sequence[Pair]) -> Change:
    return Change(
        masks=len(pairs),
        baseline_dice=metrics([pair.baseline for pair in pairs]).dice,
        candidate_dice=metrics([pair.candidate for pair in pairs]).dice,
        flipped_share=sum(pair.flipped for pair in pairs) / sum(pair.pixels for pair in pairs),
        answered_otherwise=sum(pair.answered_otherwise for pair in pairs),
    )


def _loss(change: Change, tolerance: GateTolerance) -> list[str]:
    if change.loss <= tolerance.dice:
        return []
    return [
        f"Dice fell from {change.baseline_dice:.4f} to {change.candidate_dice:.4f} (tolerated: {tolerance.dice:g})"
    ]
