"""The contact sheet, and the details of its items: what one run has found.

Knows which values of a row are shown, and how large a page may become. Does not know files or pixels.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mediround.annotate.current import ItemRows
from mediround.annotate.items import Item
from mediround.annotate.report.pages import Structures, cut, links, notes, page, rounded, sheet, table

DATA_BYTES = 3_900_000
"""Of the contact sheet's items, as ``entry_bytes`` counts them."""
_ENTRY_BYTES, _ROUND_BYTES = 90, 18
_STATUSES = {"mask": 0, "no_mask": 1, "not_asked": 2, "failed": 3}
_GIVEN = -1
_HEAD = ("round", "structure", "about", "status", "score", "area", "question", "answer")


@dataclass(frozen=True, slots=True)
class Shown:
    """An item in a report.

    Attributes:
        item: as planned; None: the manifest has lost it meanwhile.
        rows: what was found.
        picture: whether it has one.
        disagreement: 1 minus its least Dice with another run; None: not compared.
    """

    item: Item | None
    rows: ItemRows
    picture: bool
    disagreement: float | None


def entry_bytes(rows: ItemRows) -> int:
    """At most, of an item in the contact sheet's data."""
    return _ENTRY_BYTES + _ROUND_BYTES * len(rows)


class ContactSheet:
    """The contact sheet's data, gathered item by item."""

    def __init__(self, job: str, run_key: str) -> None:
        """``job``: its name."""
        self._of = {"job": job, "run_key": run_key}
        self._structures = Structures()
        self._items: list[list[Any]] = []

    def add(self, shown: Shown, number: int) -> None:
        """``number``: of the page that has its details."""
        rows = shown.rows
        rounds = [
            [
                self._structures.number(row.label),
                _STATUSES.get(row.status, _STATUSES["failed"]),
                rounded(row.score, 3),
                _GIVEN if row.reference == "given" else row.refer_to,
            ]
            for row in rows
        ]
        apart = rounded(shown.disagreement, 4)
        code = cut(rows[0].error_code, 20)
        self._items.append([rows[0].item_id, number, code, apart, int(shown.picture), rounds])

    def html(self, title: str, lines: Sequence[str], *, compared: bool) -> str:
        """The page; ``compared``: it leads to a comparison."""
        data = {**self._of, "structures": self._structures.names, "items": self._items}
        filters = {"most-score": "score at most"}
        if compared:
            filters |= {"least-apart": "disagreement at least"}
        body, script = sheet(data, filters, "sheet.js")
        led = links({"comparison.html": "comparison"}) if compared else ""
        return page(title, f"{notes(lines)}{led}{body}", script)


def details(title: str, number: int, articles: Sequence[str], *, last: bool) -> str:
    """The page of some items, each with its dialogue, as ``article`` makes them."""
    places = {"index.html": "contact sheet"}
    if number:
        places[page_name(number - 1)] = "before"
    if not last:
        places[page_name(number + 1)] = "after"
    return page(title, f"{links(places)}{''.join(articles)}{links(places)}")


def page_name(number: int) -> str:
    return f"page-{number:04d}.html"


def article(shown: Shown, *, identify: bool) -> str:
    """HTML of one item."""
    rows, name = shown.rows, shown.rows[0].item_id
    parts = [f'<article id="i{html.escape(name)}"><h1>{html.escape(name)}</h1>']
    if identify and shown.item is not None:
        places = (shown.item.uri, shown.item.study, shown.item.series, shown.item.instance)
        parts.append(f'<p class="note">{html.escape(" ".join(filter(None, places)))}</p>')
    if shown.picture:
        parts.append(f'<img alt="" src="pictures/{html.escape(name[:2])}/{html.escape(name)}.jpg">')
    if rows[0].error_code:
        parts.append(f"<p>{html.escape(rows[0].error_code)}: {html.escape(cut(rows[0].error))}</p>")
    parts.append(table(_HEAD, [_cells(at, rows) for at in range(len(rows))]))
    return "".join(parts) + "</article>"


def _cells(at: int, rows: ItemRows) -> tuple[object, ...]:
    row = rows[at]
    score, corrected = rounded(row.score, 3), ", corrected" if row.corrected else ""
    words = "" if score is None else f"{score:.3f}{corrected}"
    return row.round, row.label, _chain(at, rows), row.status, words, row.area, row.question, row.answer


def _chain(at: int, rows: ItemRows) -> str:
    """The rounds that a round is about, the nearest first."""
    words = []
    while (before := rows[at].refer_to) is not None and 0 <= before < at:
        at = before
        words.append(f"round {at}: {rows[at].label}")
    if rows[at].reference == "given":
        words.append("a given mask")
    return ", about ".join(words)
