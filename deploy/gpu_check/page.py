"""What the rows are written as: tables of docs/gpu-verification.md, and the report of a run.

Knows Markdown. Does not run anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.gpu_check.rows import BY_HAND, ROWS, Row, Step

PAGE = Path("docs/gpu-verification.md")
BEGIN, END = "<!-- rows: python -m deploy.gpu_check --write-page -->", "<!-- end of rows -->"


@dataclass(slots=True)
class Outcome:
    """What became of one row."""

    row: Row
    seconds: float = 0.0
    figures: list[str] = field(default_factory=list)
    failure: str = ""

    @property
    def words(self) -> str:
        return "failed" if self.failure else "passed"


def tables() -> str:
    """Both tables of the page."""
    told = ["| row | what | exercised without a GPU | commands | verified |", "|---|---|---|---|---|"]
    for row in ROWS:
        commands = "; ".join(_named(step) for step in row.steps)
        told.append(f"| `{row.name}` | {row.what} | {row.without} | {commands} | {row.verified} |")
    told += ["", "By hand: it needs another host, images of a registry, or weights.", ""]
    told += ["| what | exercised without a GPU | on a GPU host | verified |", "|---|---|---|---|"]
    told += [f"| {each.what} | {each.without} | {each.command} | {each.verified} |" for each in BY_HAND]
    return "\n".join(told)


def _named(step: Step) -> str:
    """The command with its places in capitals; where it is not the environment ``gpu``, with which it is."""
    words = re.sub(r"\{(\w+)\}", lambda place: place[1].upper(), step.command)
    return f"`{words}`" + ("" if step.environment == "gpu" else f" (environment `{step.environment}`)")


def with_tables(page: str) -> str:
    """The page with the tables as they are now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def report(facts: Mapping[str, str], outcomes: Sequence[Outcome]) -> str:
    """Of one run: versions, each row with its seconds and figures, and the failure that ended it."""
    told = ["# GPU check", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]
    told += ["", "| row | | s |", "|---|---|---|"]
    told += [f"| `{each.row.name}` | {each.words} | {each.seconds:.0f} |" for each in outcomes]
    left = [row.name for row in ROWS if row not in [each.row for each in outcomes]]
    told += [f"| `{name}` | not run | |" for name in left]
    for each in outcomes:
        told += ["", f"## {each.row.name}", "", f"{each.row.what}: {each.words}.", ""]
        words = [*each.figures, *each.failure.splitlines()]
        told += ["```", *words, "```"] if words else ["No figures."]
    return "\n".join(told) + "\n"
