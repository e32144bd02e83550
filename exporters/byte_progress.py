"""Progress of a step by its bytes, told to people: a bar on a terminal, else a line for each tenth.

Knows where it is told. Does not know what is read or written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from exporters.progress import Progress

LINES = 10
GB = 1e9


@contextmanager
def counted(progress: Progress, step: str, total: int) -> Iterator[Callable[[int], None]]:
    """Tell of ``step``; the block calls what it is given with the bytes done since the last call."""
    progress(f"{step} ({gigabytes(total)})")
    if sys.stderr.isatty():
        columns = TextColumn(step), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(step, total=total)
            yield lambda done: bars.advance(task, done)
        return
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        before, done = done, done + more
        if total >= GB and before * LINES // total != done * LINES // total:
            progress(f"{step}: {done / GB:.1f} of {gigabytes(total)}")

    yield advance


def gigabytes(nbytes: int) -> str:
    return f"{nbytes / GB:.2f} GB" if nbytes < GB else f"{nbytes / GB:.1f} GB"
