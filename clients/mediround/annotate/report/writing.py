"""A report written: which items are shown, their pictures, the pages.

Knows the order of work, and holds what is shown in memory, which is bounded. Does not know HTML or pixels.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mediround.annotate.compare.pairs import Unpaired, paired
from mediround.annotate.current import ItemRows, current_rows
from mediround.annotate.errors import JobError
from mediround.annotate.files import write_atomic
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.manifest import read_manifest
from mediround.annotate.report.pages import NOTE, Sheet, Shown, details
from mediround.annotate.report.pictures import strip

ITEMS_A_PAGE = 200
_THREADS = 4
_MARK = "mediround-report.txt"


@dataclass(frozen=True, slots=True)
class Report:
    """What was written.

    Attributes:
        items: shown.
        of: that have rows.
        pictures: of them, with a picture.
        pages: of details.
    """

    items: int
    of: int
    pictures: int
    pages: int


def write(
    job: Job, run: Run, out: Path, *, most: int, against: Run | None = None, identify: bool = False
) -> Report:
    """Write a run's report into a new folder, or over an earlier report.

    Args:
        most: items shown: those that failed, then those that disagree most with ``against`` or score least.
        identify: places and identifiers of sources stand in the pages.

    Raises:
        JobError: the run cannot be read, or the folder holds something else or cannot be written.
    """
    _begin(out)
    apart = {} if against is None else _apart(against, run)
    count, chosen = _chosen(run, most, apart)
    items = _items(job, chosen)
    sheet, pictures, number = Sheet(run.key), 0, 0
    title = f"{run.identity.model_name} {run.identity.model_version}, run {run.folder.name}"
    shown = (rows for rows in current_rows(run) if rows[0].item_id in chosen)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="pictures") as threads:
        while piece := list(islice(shown, ITEMS_A_PAGE)):
            made = list(threads.map(lambda rows: _picture(out, items.get(rows[0].item_id), rows), piece))
            entries = [
                Shown(items.get(rows[0].item_id), rows, picture, apart.get(rows[0].item_id))
                for rows, picture in zip(piece, made, strict=True)
            ]
            for entry in entries:
                sheet.add(entry, number)
            page = details(f"{title}: details {number}", entries, identify=identify)
            write_atomic(out / f"page-{number:04d}.html", page.encode())
            pictures, number = pictures + sum(made), number + 1
    notes = [NOTE, f"{len(chosen)} of {count} items; pictures of {pictures}, of the others the source is gone"]
    write_atomic(out / "index.html", sheet.page(title, notes).encode())
    return Report(len(chosen), count, pictures, number)


def _begin(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise JobError("--out: must be a new folder, or an earlier report's")
    write_atomic(out / _MARK, b"Written by `mediround annotate report`; open index.html.\n")
    for path in (*out.glob("page-*.html"), *out.glob("pictures/*/*.jpg"), out / "index.html"):
        path.unlink(missing_ok=True)


def _apart(earlier: Run, later: Run) -> dict[str, float]:
    """1 minus the least Dice of an item's rounds; 1 where only one run has a mask."""
    found: dict[str, float] = {}
    for pairs in paired(earlier, later):
        if isinstance(pairs, Unpaired):
            continue
        rounds = [pair for pair in pairs if pair.earlier.counts is not None or pair.later.counts is not None]
        if rounds:
            found[pairs[0].item_id] = 1 - min(pair.dice() or 0.0 for pair in rounds)
    return found


def _chosen(run: Run, most: int, apart: dict[str, float]) -> tuple[int, set[str]]:
    """How many there are, and the names of those that are shown."""
    count = 0

    def ranked() -> Iterator[tuple[bool, float, str]]:
        nonlocal count
        for rows in current_rows(run):
            count += 1
            name, scores = rows[0].item_id, [row.score for row in rows if row.score is not None]
            yield rows[0].status == "failed", apart.get(name, 1 - min(scores, default=1.0)), name

    chosen = {name for _, _, name in heapq.nlargest(most, ranked())}
    return count, chosen


def _items(job: Job, chosen: set[str]) -> dict[str, Item]:
    return {
        item.item_id: item for piece in read_manifest(job.manifest) for item in piece if item.item_id in chosen
    }


def _picture(out: Path, item: Item | None, rows: ItemRows) -> bool:
    content = None if item is None or item.problem else strip(item, rows)
    if content is None:
        return False
    name = rows[0].item_id
    path = out / "pictures" / name[:2] / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return True
