"""Answered rounds as text: a table for a terminal of 80 columns, and rows with every figure for the page.

Knows which figures are shown, and their units. Does not know the service, pictures or HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from demo.slices import SliceQuestion, dice
from mediround import RoundResult

COLUMNS = 80
_STAGES = ("queue", "prepare", "language", "encode", "decode", "postprocess", "total")
HEADER = (
    *("round", "question", "refers to", "answer", "Dice", "score", "corrected", "image held"),
    *("tokens held", "tokens", *(f"{name}, ms" for name in _STAGES)),
)
"""Of the page's tables."""


@dataclass(frozen=True, slots=True)
class AnsweredRound:
    asked: SliceQuestion
    result: RoundResult

    @property
    def dice(self) -> float:
        """Against the atlas, 0 to 1."""
        return dice(self.result.mask, self.asked.truth)

    @property
    def refers_to(self) -> str:
        return "" if self.asked.refer_to is None else f"round {self.asked.refer_to}"

    def row(self) -> list[str]:
        """Cells under ``HEADER``."""
        result, cache = self.result, self.result.cache
        seconds = (getattr(result.timings, name) for name in _STAGES)
        return [
            str(result.index),
            self.asked.question,
            self.refers_to,
            result.answer,
            f"{self.dice:.2f}",
            "" if result.score is None else f"{result.score:.2f}",
            "yes" if result.corrected else "",
            "yes" if cache.embedding_hit else "",
            str(cache.cached_tokens),
            str(cache.prompt_tokens),
            *(f"{each * 1000:.0f}" for each in seconds),
        ]


def table(title: str, answered: Sequence[AnsweredRound]) -> Table:
    """What fits 80 columns: questions and answers on up to two lines each, every other cell on one."""
    view = Table(
        title=f"\n{title}",
        width=COLUMNS,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    view.add_column("round", justify="right", no_wrap=True)
    view.add_column("question", ratio=14)
    view.add_column("refers\nto", no_wrap=True)
    view.add_column("answer", ratio=13)
    view.add_column("Dice", justify="right", no_wrap=True)
    view.add_column("ms", justify="right", no_wrap=True)
    for one in answered:
        cells = [str(one.result.index), one.asked.question, one.refers_to, one.result.answer]
        cells += [f"{one.dice:.2f}", f"{one.result.timings.total * 1000:.0f}"]
        view.add_row(*map(Text, cells))  # as Text: square brackets in a model's words are no markup
    return view
