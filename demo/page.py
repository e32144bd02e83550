"""One self-contained HTML page of the dialogues: nothing is loaded from elsewhere.

Knows HTML. Does not know how the pictures were made or what the figures mean.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

STYLE = """
body { background: #16181c; color: #e1e4e8; font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
       max-width: 1500px; padding: 0 1rem; }
img { max-width: 100%; } h1, h2 { font-weight: 500; } .note { color: #9aa4af; }
table { border-collapse: collapse; margin: .5rem 0 2rem; font-size: 13px; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid #2c3138; vertical-align: top; }
"""


@dataclass(frozen=True, slots=True)
class DialogueSection:
    name: str
    """Of its picture's file."""
    title: str
    picture: Image.Image
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def render(title: str, notes: Sequence[str], sections: Sequence[DialogueSection]) -> str:
    """The page as text."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    body += [f'<p class="note">{html.escape(note)}</p>' for note in notes]
    for section in sections:
        body += [f"<h2>{html.escape(section.title)}</h2>", _image(section), _table(section)]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><body>{''.join(body)}</body></html>"
    )


def _image(section: DialogueSection) -> str:
    buffer = io.BytesIO()
    section.picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(section.title, quote=True)}" src="data:image/png;base64,{data}">'


def _table(section: DialogueSection) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in section.header)
    rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in section.rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
