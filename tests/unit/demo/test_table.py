"""The demo's table as a terminal of 80 columns shows it, and the page's rows beside it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image
from rich.console import Console

from demo.page import DialogueSection, render
from demo.slices import SliceQuestion, dialogues
from demo.table import HEADER, AnsweredRound, table
from mediround.results import CacheUse, RoundResult, Timings
from tests.conftest import REPOSITORY

SLICES = REPOSITORY / "models" / "mediround-lite" / "slices"
TIMINGS = Timings(
    queue=0.0, prepare=0.001, language=0.012, encode=1.4, decode=0.05, postprocess=0.005, total=1.468
)


def answered(asked: SliceQuestion, index: int, answer: str) -> AnsweredRound:
    mask = asked.truth
    cache = CacheUse(embedding_hit=index > 0, cached_tokens=85, prompt_tokens=100, wave=0)
    fixed = {"area": int(mask.sum()), "box": None, "score": 0.7, "seg_probability": 1.0, "corrected": False}
    result = RoundResult(
        "s", index, answer, mask, reference=None, timings=TIMINGS, cache=cache, model_digest="d" * 64, **fixed
    )
    return AnsweredRound(asked, result)


def held(answer: str | None = None) -> list[AnsweredRound]:
    """Every dialogue that the demo holds, answered in full."""
    return [
        answered(asked, index, answer or f"It is the {asked.target} [SEG].")
        for dialogue in dialogues(SLICES)
        for index, asked in enumerate(dialogue.rounds)
    ]


def printed(rounds: list[AnsweredRound]) -> list[str]:
    console = Console(width=80, file=io.StringIO(), legacy_windows=False)
    console.print(table("slice", rounds))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # the StringIO above


def cells(lines: list[str]) -> list[list[str]]:
    """Rows of cells, each cell's lines joined; a row begins where there is a round index."""
    head = next(line for line in lines if line.startswith("round"))
    starts = [head.index(name) for name in ("round", "question", "to ", "answer", "Dice")]
    spans = [slice(a, b) for a, b in zip(starts, [*starts[1:], head.index("Dice") + 4], strict=True)]
    spans.append(slice(spans[-1].stop, None))
    rows: list[list[str]] = []
    for line in lines[lines.index(next(each for each in lines if "───" in each)) + 1 :]:
        found = [line[span].strip() for span in spans]
        if found[0]:
            rows.append(found)
        else:
            rows[-1] = [f"{before} {more}".strip() for before, more in zip(rows[-1], found, strict=True)]
    return rows


def test_every_cell_is_whole_at_80_columns() -> None:
    rounds = held()
    lines = printed(rounds)
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    assert cells(lines) == [
        [str(a.result.index), a.asked.question, a.refers_to, a.result.answer, "1.00", "1468"] for a in rounds
    ]


def test_a_row_takes_two_lines_at_most() -> None:
    rounds = held()
    _blank, _title, *head, rule = printed(rounds)[:5]
    assert [line.split() for line in head] == [["refers"], ["round", "question", "to", "answer", "Dice", "ms"]]
    assert set(rule.strip()) == {"─"}
    assert len(printed(rounds)) <= 5 + 2 * len(rounds)


def test_square_brackets_of_an_answer_are_no_markup() -> None:
    rounds = held("It is [bold]this[/bold] [SEG].")
    assert {row[3] for row in cells(printed(rounds))} == {"It is [bold]this[/bold] [SEG]."}


@pytest.mark.parametrize("refer_to", [None, 0, 3])
def test_references_are_named_by_the_index_that_the_client_has(refer_to: int | None) -> None:
    one = held()[0]
    referring = AnsweredRound(replace(one.asked, refer_to=refer_to), one.result)
    assert referring.refers_to == ("" if refer_to is None else f"round {refer_to}")


def test_the_page_has_every_figure_under_a_head_with_its_unit() -> None:
    first, second = held()[:2]
    for row in (first.row(), second.row()):
        assert len(row) == len(HEADER)
    shown = dict(zip(HEADER, second.row(), strict=True))
    assert (shown["tokens held"], shown["tokens"], shown["image held"]) == ("85", "100", "yes")
    assert (shown["encode, ms"], shown["total, ms"]) == ("1400", "1468")
    picture = Image.new("RGB", (2, 2))
    page = render("t", [], [DialogueSection("s", "s", picture, HEADER, [first.row()])])
    assert "<th>encode, ms</th>" in page
