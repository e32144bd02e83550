"""A page: HTML that loads nothing from elsewhere; and a sheet of tiles that sorts and filters.

Knows HTML. Every text is escaped, wherever it comes from, and a policy in each page lets nothing be loaded from
elsewhere and no script run but ours. Does not know files, or what a page is about.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files

NOTE = "Research and education software: not for clinical use."
MOST_BYTES = 4_500_000
"""Of a page, or a little more: below 5 MB."""
_MOST_CHARACTERS = 300
"""Of a question, answer or error."""
_LABEL_CHARACTERS = 64
_LABEL_BYTES = 400_000
"""Of all structures' names in a page's data; what comes later is one of ``_OTHERS``."""
_OTHERS = "other structures"
_CONTROLS = """
<header><label>sort <select id="sort"></select></label> <select id="structure"></select>
<select id="status"></select> {filters}<button id="before">before</button> <span id="count"></span>
<button id="after">after</button> <button id="export">export review</button> <span id="kept"></span></header>
<p class="note">arrow keys, page up and down: move; a: accept; r: reject; again: take back; c: comment; u: undo</p>
<div id="sheet"></div>
<dialog id="dialog"><form method="dialog"><textarea id="words" rows="4" cols="50" maxlength="2000"></textarea><br>
<button value="keep">keep</button> <button value="">leave</button></form></dialog>
"""
_NUMBER = '<label>{words} <input id="{name}" type="number" min="0" max="1" step="any"></label> '


class Structures:
    """Names of structures, each by its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._left = _LABEL_BYTES

    def number(self, label: str) -> int:
        """Of a label, which is cut."""
        name = cut(label, _LABEL_CHARACTERS)
        if name not in self._numbers and name != _OTHERS:
            self._left -= len(embedded(name)) + 1
            name = name if self._left > 0 else _OTHERS
        return self._numbers.setdefault(name, len(self._numbers))

    @property
    def names(self) -> list[str]:
        return list(self._numbers)


def sheet(data: Mapping[str, object], filters: Mapping[str, str], script: str) -> tuple[str, str]:
    """The body's end of a page of tiles, and the script that it runs.

    Args:
        data: what the script reads; ``job``, ``run_key`` and ``structures`` beside its own.
        filters: ids of fields for numbers from 0 to 1, and their words.
        script: file name, beside this module, of what says what a tile is.
    """
    whole = "\n".join((files(__package__) / name).read_text() for name in ("review.js", script))
    fields = "".join(_NUMBER.format(name=name, words=words) for name, words in filters.items())
    body = _CONTROLS.format(filters=fields)
    return (
        f'{body}<script type="application/json" id="data">{embedded(data)}</script><script>{whole}</script>',
        whole,
    )


def page(title: str, body: str, script: str = "") -> str:
    """A whole page; ``body`` is HTML."""
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


def notes(lines: Sequence[str]) -> str:
    return "".join(f'<p class="note">{html.escape(line)}</p>' for line in lines)


def links(places: Mapping[str, str]) -> str:
    """Words by where they lead, in this folder."""
    return "<p>" + " ".join(f'<a href="{place}">{words}</a>' for place, words in places.items()) + "</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Values as text, cut where they are long."""
    lines = ["".join(f"<th>{html.escape(each)}</th>" for each in head)]
    lines += ["".join(f"<td>{html.escape(cut(str(each)))}</td>" for each in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def embedded(data: object) -> str:
    """JSON that cannot end the element that it stands in. Raises ValueError: a number is none of JSON's."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def cut(text: str, most: int = _MOST_CHARACTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def rounded(value: float | None, digits: int) -> float | None:
    """None also for what is no number: an index may hold anything."""
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
