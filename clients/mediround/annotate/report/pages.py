"""The pages: the contact sheet, which sorts and filters, and the details of 200 items each.

Knows HTML. Every text is escaped, wherever it comes from, and a policy in each page lets nothing be loaded from
elsewhere and no script run but ours. Does not know files or how pictures are made.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from mediround.annotate.current import ItemRows
from mediround.annotate.items import Item

NOTE = "Research and education software: not for clinical use."
_MOST_CHARACTERS = 300
"""Of a question, answer or error."""
_CONTROLS = """
<header><label>sort <select id="sort"></select></label> <select id="structure"></select>
<select id="status"></select> <button id="before">before</button> <span id="count"></span>
<button id="after">after</button> <button id="export">export review</button> <span id="kept"></span></header>
<p class="note">arrow keys: move; a: accept; r: reject; c: comment; again: take back</p>
<div id="sheet"></div>
<dialog id="dialog"><form method="dialog"><textarea id="words" rows="4" cols="50" maxlength="2000"></textarea><br>
<button value="keep">keep</button> <button value="">leave</button></form></dialog>
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """An item in a report.

    Attributes:
        item: as planned; None: the manifest has it no more.
        rows: what was found.
        picture: whether it has one.
        disagreement: 1 minus its least Dice with another run; None: not compared.
    """

    item: Item | None
    rows: ItemRows
    picture: bool
    disagreement: float | None


class Sheet:
    """The contact sheet's data, gathered item by item."""

    def __init__(self, run_key: str) -> None:
        self._run_key = run_key
        self._structures: dict[str, int] = {}
        self._items: list[list[Any]] = []

    def add(self, shown: Shown, page: int) -> None:
        rows = shown.rows
        scores = [row.score for row in rows if row.score is not None]
        rounds = [
            [
                self._structures.setdefault(_cut(row.label, 60), len(self._structures)),
                row.status,
                None if row.score is None else round(row.score, 3),
                row.refer_to,
            ]
            for row in rows
        ]
        least = round(min(scores), 4) if scores else None
        apart = None if shown.disagreement is None else round(shown.disagreement, 4)
        self._items.append([rows[0].item_id, page, rows[0].error_code, least, apart, shown.picture, rounds])

    def page(self, title: str, notes: Sequence[str]) -> str:
        """The page as text."""
        data = {"run_key": self._run_key, "structures": list(self._structures), "items": self._items}
        script = (files(__package__) / "report.js").read_text()
        lines = "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)
        body = f'<script type="application/json" id="data">{_embedded(data)}</script><script>{script}</script>'
        return _page(title, f"{lines}{_CONTROLS}{body}", script)


def details(title: str, shown: Sequence[Shown], *, identify: bool) -> str:
    """The page of some items, each with its dialogue."""
    return _page(title, "".join(_article(each, identify=identify) for each in shown))


def _article(shown: Shown, *, identify: bool) -> str:
    rows, name = shown.rows, shown.rows[0].item_id
    parts = [f'<article id="i{html.escape(name)}"><h1>{html.escape(name)}</h1>']
    if identify and shown.item is not None:
        places = (shown.item.uri, shown.item.study, shown.item.series, shown.item.instance)
        parts.append(f'<p class="note">{html.escape(" ".join(filter(None, places)))}</p>')
    if shown.picture:
        parts.append(f'<img alt="" src="pictures/{html.escape(name[:2])}/{html.escape(name)}.jpg">')
    if rows[0].error_code:
        parts.append(f"<p>{html.escape(rows[0].error_code)}: {html.escape(_cut(rows[0].error))}</p>")
    head = ("round", "structure", "about", "status", "score", "area", "question", "answer")
    parts.append("<table><tr>" + "".join(f"<th>{each}</th>" for each in head) + "</tr>")
    for row in rows:
        about = "a given mask" if row.reference == "given" else ""
        if row.refer_to is not None:
            about = f"round {row.refer_to}: {rows[row.refer_to].label}" if row.refer_to < len(rows) else ""
        corrected = ", corrected" if row.corrected else ""
        score = "" if row.score is None else f"{row.score:.3f}{corrected}"
        cells = (row.round, row.label, about, row.status, score, row.area, row.question, row.answer)
        parts.append("<tr>" + "".join(f"<td>{html.escape(_cut(str(each)))}</td>" for each in cells) + "</tr>")
    return "".join(parts) + "</table></article>"


def _page(title: str, body: str, script: str = "") -> str:
    style = (files(__package__) / "report.css").read_text()
    allowed = f"script-src {_digest(script)};" if script else ""
    policy = (
        f"default-src 'none'; img-src 'self' file:; style-src {_digest(style)}; {allowed} base-uri 'none'; "
        "form-action 'none'"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'
        f'<meta name="referrer" content="no-referrer"><title>{html.escape(title)}</title>'
        f"<style>{style}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(data: object) -> str:
    """JSON that cannot end the element that it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")


def _cut(text: str, most: int = _MOST_CHARACTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
