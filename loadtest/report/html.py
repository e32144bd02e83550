"""One self-contained HTML page of a report: nothing is loaded from elsewhere.

Knows HTML. Does not know how figures came about. Every text is escaped, whoever it came from.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.report.model import PAGE, ReportError
from loadtest.report.tables import Table

NOTE = "Research and education software: not for clinical use."
_STYLE = """
body { color: #1f2328; background: #fff; font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 980px;
       padding: 0 1rem; }
h1, h2 { font-weight: 500; } h2 { margin-top: 2rem; } .note { color: #59636e; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0; }
th, td { border-bottom: 1px solid #d1d9e0; padding: .25rem .9rem .25rem 0; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.met { color: #1a7f37; } .missed, .invalid { color: #cf222e; } pre { font-size: 12px; white-space: pre-wrap; }
"""


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    notes: Sequence[str] = ()
    svg: str = ""
    table: Table | None = None
    text: str = ""
    """Shown as it is."""


def render(title: str, result: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """The page as text; ``result`` is also the class that colours it."""
    shown = html.escape(result, quote=True)
    body = [f"<h1>{html.escape(title)}</h1>", f'<p>Objective: <strong class="{shown}">{shown}</strong></p>']
    body += [f'<p class="note">{html.escape(note)}</p>' for note in (*notes, NOTE)]
    body += [_section(section) for section in sections]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )


def write(page: str, directory: Path) -> None:
    """``report.html``. Raises ReportError."""
    try:
        (directory / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{directory / PAGE}: {error.strerror or error}") from error


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in section.notes]
    parts.append(section.svg)
    if section.table:
        parts.append(_table(section.table))
    if section.text:
        parts.append(f"<pre>{html.escape(section.text)}</pre>")
    return "".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in table.rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
