"""What a person sees: a bar while frames are asked, tables afterwards.

Knows the terminal. Does not know how anything is asked.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mediround.dicom.command.record import QuestionRecord, StackRecord
from mediround.dicom.series.stack import SetAside

_PLAIN_WIDTH = 110
_LISTED = 10


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


class Bar:
    """How far the frames are."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._task = progress, progress.add_task("", total=total, failed=0, marked=0)
        self._failed = self._marked = 0

    def advance(self, *, failed: bool, marked: bool) -> None:
        self._failed, self._marked = self._failed + failed, self._marked + marked
        self._progress.update(self._task, advance=1, failed=self._failed, marked=self._marked)


@contextmanager
def bar(total: int) -> Iterator[Bar]:
    """On a terminal alone."""
    columns = (
        TextColumn("segmenting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[marked]} marked, {task.fields[failed]} failed"),
    )
    error, quiet = Console(stderr=True), not sys.stderr.isatty()
    with Progress(*columns, console=error, transient=True, disable=quiet) as progress:
        yield Bar(progress, total)


def summary(records: Sequence[StackRecord], where: Console) -> None:
    """A table of the questions, then the frames that a person should look at."""
    table = Table()
    table.add_column("stack", justify="right")
    table.add_column("question", overflow="fold")
    for name in ("frames", "masks", "given", "no mask", "not asked", "score", "lowest", "marked"):
        table.add_column(name, justify="right")
    for record in records:
        for question in record.questions:
            table.add_row(str(record.number), question.label, *_cells(record, question))
        table.add_section()
    where.print(table)
    for record in records:
        for words in _attention(record):
            line(where, f"stack {record.number}{words}")


def _attention(record: StackRecord) -> Iterator[str]:
    """What a person should look at."""
    for question in record.questions:
        if question.marks:
            frames = [f"{index} ({mark})" for index, mark in sorted(question.marks.items())]
            yield f", {question.label}: marked are frames {_first(frames)}"
    restarted = Counter(frame["restarted"] for frame in record.frames.values())
    for reason in sorted(restarted.keys() - {""}):
        yield f": {restarted[reason]} frames began anew ({reason})"
    for index, words in sorted(record.failures.items())[:_LISTED]:
        yield f", frame {index} failed: {words}"
    if len(record.failures) > _LISTED:
        yield f": {len(record.failures) - _LISTED} more frames failed"
    if len(record.windows) > 1:
        yield f": {len(record.windows)} windows, of each frame its own; --window sets one"


def set_aside(found: Sequence[SetAside], where: Console) -> None:
    """How many objects belong to no stack, and why."""
    for words, count in Counter(each.description for each in found).most_common(_LISTED):
        line(where, f"{count} left out: {words}")


def notes(lines: Iterable[str], where: Console) -> None:
    for words in lines:
        line(where, f"note: {words}")


def _cells(record: StackRecord, question: QuestionRecord) -> list[str]:
    counts = (len(record.frames), *question.statuses.values())
    scores = (question.middle_score, question.lowest_score)
    return [
        *map(str, counts),
        *("-" if score is None else f"{score:.2f}" for score in scores),
        str(len(question.marks)),
    ]


def _first(words: Sequence[str]) -> str:
    more = f" and {len(words) - _LISTED} more" if len(words) > _LISTED else ""
    return ", ".join(words[:_LISTED]) + more


def line(where: Console, words: str) -> None:
    where.print(printable(words), markup=False, highlight=False, soft_wrap=True)


def printable(words: str) -> str:
    """Words of a server or a file must not steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in words)
