"""The report of a run, and how it is written: JSON, a readable table.

Knows records of finished items and sums them up. Does not know the service, or how a plot is drawn.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mediround.evaluate.calibration import Calibration, calibration
from mediround.evaluate.ledger import ItemRecord, RoundRecord, Run
from mediround.evaluate.metrics import metrics

FILE = "report.json"
TEXT = "report.txt"
_LISTED = 20


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the rounds of one index, or of all. Rounds without a mask count as empty predictions.

    Attributes:
        rounds: how many.
        giou: mean IoU of the masks, 0 to 1.
        ciou: intersections over unions, each summed; None where every union is empty.
        dice: mean Dice of the masks, 0 to 1.
        corrected: rounds whose feature the corrector replaced.
        no_mask: rounds that the model answered without a mask.
        not_asked: rounds that refer to a round without one.
    """

    rounds: int
    giou: float
    ciou: float | None
    dice: float
    corrected: int
    no_mask: int
    not_asked: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that has no part in the figures.

    Attributes:
        item: index in the data set's list, from 0.
        file: what is at fault: the data set, or a picture; the server's address where a call failed.
        problem: what is wrong with it.
    """

    item: int
    file: str
    problem: str


@dataclass(frozen=True, slots=True)
class Data:
    """What was evaluated.

    Attributes:
        file: the data set's path.
        digest: SHA-256 over ``keys``, hex: equal for equal dialogues and pictures.
        items: in the data set.
        evaluated: those that have a part in the figures.
        keys: of the items in order; None for an item that could not be read.
    """

    file: str
    digest: str
    items: int
    evaluated: int
    keys: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """How good the masks of one run are.

    Attributes:
        run: the model and how it was asked.
        data: what was evaluated.
        overall: of all rounds; None where no item could be evaluated.
        by_round: by the round's index in its dialogue.
        judge: how well its scores foretell the IoU; None without a judge or a scored round.
        judge_left_out: scored rounds left out of it: they were corrected, and the score is of the mask before.
        failures: items that have no part in the figures.
    """

    run: Run
    data: Data
    overall: Figures | None
    by_round: tuple[Figures, ...]
    judge: Calibration | None
    judge_left_out: int
    failures: tuple[Failure, ...]


def summed_up(
    run: Run,
    file: str,
    keys: Sequence[str | None],
    finished: Mapping[str, ItemRecord],
    failures: Sequence[Failure],
) -> EvaluationReport:
    """The report of the items with these ``keys``, of which some are ``finished``."""
    records = [finished[key] for key in keys if key is not None and key in finished]
    digest = hashlib.sha256("\n".join(key or "unreadable" for key in keys).encode()).hexdigest()
    by_round: dict[int, list[RoundRecord]] = defaultdict(list)
    for record in records:
        for number, found in enumerate(record.rounds):
            by_round[number].append(found)
    everything = [found for record in records for found in record.rounds]
    scored = [(found.score, found) for found in everything if found.score is not None]
    judged = [(score, found.overlap.iou) for score, found in scored if not found.corrected]
    return EvaluationReport(
        run=run,
        data=Data(file, digest, len(keys), len(records), tuple(keys)),
        overall=_figures(everything) if everything else None,
        by_round=tuple(_figures(by_round[number]) for number in sorted(by_round)),
        judge=calibration([score for score, _ in judged], [iou for _, iou in judged], run.threshold),
        judge_left_out=len(scored) - len(judged),
        failures=tuple(failures),
    )


def write(report: EvaluationReport, directory: Path) -> None:
    """``report.json`` and ``report.txt``."""
    (directory / FILE).write_text(json.dumps(asdict(report), indent=1) + "\n")
    with (directory / TEXT).open("w") as stream:
        show(report, Console(file=stream, width=110))


def show(report: EvaluationReport, console: Console) -> None:
    """Print a report as tables."""
    run, data = report.run, report.data
    model = f"{run.model_name} {run.model_version} ({run.model_digest[:12]}), server {run.server_version}"
    engines = ", ".join(record.digest[:12] for record in run.engine_records)
    console.print(_printable(f"{model}, engine record {engines}" if engines else model), markup=False)
    console.print(f"policy {run.policy}, answers {run.answers}; {data.evaluated} of {data.items} items evaluated")
    if report.overall:
        console.print(_table(report.overall, report.by_round))
    if report.judge:
        console.print(_judge(report.judge, report.judge_left_out))
    for failure in report.failures[:_LISTED]:
        line = f"failed: item {failure.item}, {failure.file}: {failure.problem}"
        console.print(_printable(line), markup=False, highlight=False)
    if len(report.failures) > _LISTED:
        console.print(f"and {len(report.failures) - _LISTED} more failed items: see {FILE}")


def _figures(records: Sequence[RoundRecord]) -> Figures:
    found = metrics([record.overlap for record in records])
    return Figures(
        rounds=len(records),
        giou=found.giou,
        ciou=found.ciou,
        dice=found.dice,
        corrected=sum(record.corrected for record in records),
        no_mask=sum(record.status == "no_mask" for record in records),
        not_asked=sum(record.status == "not_asked" for record in records),
    )


def _table(overall: Figures, by_round: Sequence[Figures]) -> Table:
    table = Table()
    for name in ("round", "masks", "gIoU", "cIoU", "Dice", "corrected", "no mask", "not asked"):
        table.add_column(name, justify="right")
    for number, figures in enumerate(by_round):
        table.add_row(str(number), *_cells(figures))
    table.add_section()
    table.add_row("all", *_cells(overall))
    return table


def _cells(figures: Figures) -> list[str]:
    shares = (figures.corrected, figures.no_mask, figures.not_asked)
    return [
        str(figures.rounds),
        f"{figures.giou:.4f}",
        _number(figures.ciou),
        f"{figures.dice:.4f}",
        *(f"{count} ({count / figures.rounds:.1%})" for count in shares),
    ]


def _judge(judge: Calibration, left_out: int) -> str:
    return (
        f"judge: {judge.rounds} rounds ({left_out} corrected ones left out), Pearson {_number(judge.pearson)}, "
        f"AUC {_number(judge.auc)} for IoU <= {judge.threshold:g} ({judge.bad} rounds), "
        f"mean absolute error {judge.mean_absolute_error:.4f}"
    )


def _printable(text: str) -> str:
    """Names of files come from the data set and must not steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
