"""Plots of a comparison as inline SVG: values with their intervals, one row each, on a common axis.

Knows SVG. Colours stand in the page's style, since its policy allows no other. Does not know what is plotted.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from mediround.annotate.report.pages import cut

_INNER, _LEAST_LEFT, _RIGHT, _ROW, _HEAD = 380, 120, 70, 18, 28
_LABEL_CHARACTERS = 64
_CHARACTER = 7
"""Width that a label's character has room for; of one of full width, twice as much."""
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """A value and the interval around it.

    Attributes:
        label: words at the left.
        value: drawn as a dot, and written at the right.
        low: of the interval.
        high: the same.
        missed: it is beyond a tolerance.
    """

    label: str
    value: float
    low: float
    high: float
    missed: bool = False


def plot(title: str, bars: Sequence[Bar], axis: tuple[float, float], marks: Sequence[float], form: str) -> str:
    """An ``svg`` element; empty without bars.

    Args:
        axis: its ends; what lies beyond is drawn at the end.
        marks: tolerances, as dashed lines, and so is 0 where it lies within.
        form: of numbers, for ``format``.
    """
    if not bars:
        return ""
    low, high = axis
    height = _HEAD + _ROW * len(bars) + 22
    left = max(_LEAST_LEFT, *(_room(bar.label) for bar in bars))
    width = left + _INNER + _RIGHT

    def place(value: float) -> str:
        return f"{left + _INNER * (min(max(value, low), high) - low) / (high - low):.1f}"

    bottom = _HEAD + _ROW * len(bars)
    parts = [f'<text x="0" y="12" class="title">{html.escape(title)}</text>']
    for step in range(_TICKS):
        value = low + (high - low) * step / (_TICKS - 1)
        x = place(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_HEAD - 6}" y2="{bottom}"/>')
        parts.append(f'<text class="middle" x="{x}" y="{bottom + 14}">{format(value, form)}</text>')
    parts += [
        f'<line class="mark" x1="{place(mark)}" x2="{place(mark)}" y1="{_HEAD - 6}" y2="{bottom}"/>'
        for mark in marks
        if low <= mark <= high
    ]
    for number, bar in enumerate(bars):
        y = _HEAD + _ROW * number
        label, words = html.escape(cut(bar.label, _LABEL_CHARACTERS)), format(bar.value, form)
        parts.append(f'<text class="end" x="{left - 10}" y="{y + 13}">{label}</text>')
        parts.append(_drawn(bar, y + _ROW // 2, place(bar.low), place(bar.value), place(bar.high)))
        parts.append(f'<text x="{left + _INNER + 8}" y="{y + 13}">{words}</text>')
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg role="img" aria-label="{html.escape(title)}" {size}>{"".join(parts)}</svg>'


def around_zero(bars: Sequence[Bar], least: float) -> tuple[float, float]:
    """An axis that is as long to either side, and ``least`` at least."""
    end = max([least, *(abs(value) for bar in bars for value in (bar.low, bar.value, bar.high))])
    return -end, end


def _room(label: str) -> int:
    """Pixels that a label needs."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in label[:_LABEL_CHARACTERS])
    return 20 + _CHARACTER * (min(len(label), _LABEL_CHARACTERS) + wide)


def _drawn(bar: Bar, y: int, low: str, value: str, high: str) -> str:
    kind = "bar missed" if bar.missed else "bar"
    return (
        f'<line class="{kind}" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
        f'<circle class="{kind}" cx="{value}" cy="{y}" r="3.5"/>'
    )
