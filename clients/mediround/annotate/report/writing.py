"""A report written: which items are shown, their pictures, the pages.

Knows the order of work, and holds what is shown in memory, which is bounded. Does not know HTML or pixels.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from mediround.annotate.compare.comparing import Comparison, compare
from mediround.annotate.compare.pairs import Pair, Unpaired, paired
from mediround.annotate.compare.verdict import Tolerances
from mediround.annotate.current import ItemRows, current_rows
from mediround.annotate.errors import JobError
from mediround.annotate.files import write_atomic
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.manifest import read_manifest
from mediround.annotate.ours import REPORT
from mediround.annotate.report.choice import Choice, choice, disagreements
from mediround.annotate.report.comparison_page import Rounds, comparison_page
from mediround.annotate.report.contact_sheet import ContactSheet, Shown, article, details, page_name
from mediround.annotate.report.pages import MOST_BYTES, NOTE
from mediround.annotate.report.pictures import side_by_side, strip, thumbnail

ITEMS_A_PAGE = 200
_THREADS = 4
_NAME = re.compile(r"[0-9a-f]{32}")
"""Of an item, before it becomes part of a file's name."""


@dataclass(frozen=True, slots=True)
class Against:
    """Another run that the report compares with, an earlier one, and what a change may do."""

    run: Run
    tolerances: Tolerances


@dataclass(frozen=True, slots=True)
class Report:
    """What was written.

    Attributes:
        items: shown.
        of: planned items that have rows.
        not_planned: items that have rows and are left out, since the manifest has them not (any more).
        pictures: of them, with a picture.
        pages: of details.
        compared: with the other run; None: there was none.
    """

    items: int
    of: int
    not_planned: int
    pictures: int
    pages: int
    compared: Comparison | None = None


def write(
    job: Job, run: Run, out: Path, *, most: int, against: Against | None = None, identify: bool = False
) -> Report:
    """Write a run's report into a new folder, or over an earlier report.

    Args:
        most: items shown, of those that are planned: those that failed, then those that disagree most with
            ``against`` or score least; and rounds of the comparison.
        identify: places and identifiers of sources stand in the pages.

    Raises:
        JobError: a run cannot be read, or the folder holds something else or cannot be written.
    """
    _begin(out)
    with disagreements() as apart:
        compared = None
        if against is not None:
            compared = compare(job, against.run, run, against.tolerances, most=most, heard=apart.hear)
        chosen = choice(job, run, most, apart)
    _clear(out)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="pictures") as threads:
        writer = _Writer(job, run, out, chosen, compared is not None, identify, threads)
        report = writer.items()
        if against is not None and compared is not None:
            writer.comparison(against, compared)
    return replace(report, compared=compared)


def _begin(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / REPORT).is_file():
        raise JobError("--out: must be a new folder, or an earlier report's")
    write_atomic(out / REPORT, b"Written by `mediround annotate report`; open index.html.\n")


def _clear(out: Path) -> None:
    """Of an earlier report, once there is what takes its place."""
    for path in (*out.glob("page-*.html"), out / "comparison.html", out / "index.html"):
        path.unlink(missing_ok=True)
    for name in ("pictures", "compared"):
        if (out / name).is_dir():
            shutil.rmtree(out / name)


@dataclass(slots=True)
class _Details:
    """Pages of details: at most so many items, and so many bytes."""

    out: Path
    title: str
    number: int = 0
    _held: list[str] = field(default_factory=list)
    _bytes: int = 0

    def add(self, text: str) -> int:
        """The number of the page that has it."""
        size = len(text.encode())
        if self._held and (len(self._held) >= ITEMS_A_PAGE or self._bytes + size > MOST_BYTES):
            self.end(last=False)
        self._held.append(text)
        self._bytes += size
        return self.number

    def end(self, *, last: bool = True) -> None:
        if not self._held:
            return
        text = details(f"{self.title}: details {self.number}", self.number, self._held, last=last)
        write_atomic(self.out / page_name(self.number), text.encode())
        self.number, self._held, self._bytes = self.number + 1, [], 0


@dataclass(slots=True)
class _Writer:
    job: Job
    run: Run
    out: Path
    chosen: Choice
    compared: bool
    identify: bool
    threads: ThreadPoolExecutor
    pages: dict[str, int] = field(default_factory=dict)
    """Of details, by item."""

    def items(self) -> Report:
        """The contact sheet and the details."""
        contact, pictures = ContactSheet(self.job.name, self.run.key), 0
        details_of = _Details(self.out, _words(self.run))
        planned = _planned(self.job, self.chosen.shown)
        for rows, picture in self._pictured(planned):
            apart = self.chosen.shown[rows[0].item_id]
            shown = Shown(planned.get(rows[0].item_id), rows, picture, apart)
            number = details_of.add(article(shown, identify=self.identify))
            contact.add(shown, number)
            self.pages[rows[0].item_id] = number
            pictures += picture
        details_of.end()
        counts = f"{len(self.chosen.shown)} of {self.chosen.count} items; pictures of {pictures}"
        lines = [NOTE, f"{counts}, of the others the source is gone"]
        if self.chosen.not_planned:
            lines.append(
                f"{self.chosen.not_planned} items more are not in the manifest (any more), and are left out"
            )
        text = contact.html(_words(self.run), lines, compared=self.compared)
        write_atomic(self.out / "index.html", text.encode())
        left_out = self.chosen.not_planned
        return Report(len(self.chosen.shown), self.chosen.count, left_out, pictures, details_of.number)

    def _pictured(self, planned: Mapping[str, Item]) -> Iterator[tuple[ItemRows, bool]]:
        rows_of_shown = current_rows(self.run, self.chosen.shown)

        def picture(rows: ItemRows) -> bool:
            name = rows[0].item_id
            base = thumbnail(planned[name]) if name in planned else None
            return _kept(self.out / "pictures", name, "", None if base is None else strip(base, rows))

        while piece := list(islice(rows_of_shown, ITEMS_A_PAGE)):
            yield from zip(piece, self.threads.map(picture, piece), strict=True)

    def comparison(self, against: Against, compared: Comparison) -> None:
        """The comparison's page, and both masks of the rounds that disagree most."""
        wanted: dict[str, set[int]] = {}
        for each in compared.disagreements:
            wanted.setdefault(each.item_id, set()).add(each.round)
        planned = _planned(self.job, wanted)
        rounds = Rounds()

        def pictures(pairs: Sequence[Pair]) -> list[bool]:
            name = pairs[0].item_id
            base = thumbnail(planned[name]) if name in planned else None
            made = [None if base is None else side_by_side(base, pair) for pair in pairs]
            both = zip(pairs, made, strict=True)
            return [_kept(self.out / "compared", name, f"-{pair.round}", content) for pair, content in both]

        found = _disagreeing(against.run, self.run, wanted)
        while piece := list(islice(found, ITEMS_A_PAGE)):
            for pairs, kept in zip(piece, self.threads.map(pictures, piece), strict=True):
                for pair, picture in zip(pairs, kept, strict=True):
                    rounds.add(pair, self.pages.get(pair.item_id), picture=picture)
        models = {name: _policy(run) for name, run in (("earlier", against.run), ("later", self.run))}
        title = f"{_words(self.run)}, compared with {_words(against.run)}"
        text = comparison_page(title, compared, against.tolerances, rounds, models, job=self.job.name)
        write_atomic(self.out / "comparison.html", text.encode())


def _words(run: Run) -> str:
    return f"{run.identity.model_name} {run.identity.model_version}, run {run.folder.name}"


def _policy(run: Run) -> str:
    return f"{_words(run)}, policy {run.identity.correction}, threshold {run.identity.threshold:g}"


def _planned(job: Job, names: Mapping[str, object]) -> dict[str, Item]:
    pieces = read_manifest(job.manifest, lambda found: [name for name in found if name in names])
    return {item.item_id: item for piece in pieces for item in piece}


def _disagreeing(earlier: Run, later: Run, wanted: Mapping[str, set[int]]) -> Iterator[list[Pair]]:
    """Of each item the rounds that are wanted."""
    for found in paired(earlier, later, wanted):
        if not isinstance(found, Unpaired):
            yield [pair for pair in found if pair.round in wanted[pair.item_id]]


def _kept(folder: Path, name: str, end: str, content: bytes | None) -> bool:
    if content is None or not _NAME.fullmatch(name):
        return False
    path = folder / name[:2] / f"{name}{end}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return True
