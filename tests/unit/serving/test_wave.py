"""Which rounds share a language pass."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.wave import waves
from tests.unit.serving.test_prompt import forced, free


def by_definition(references: list[int | None]) -> list[int]:
    """wave(k) as docs/architecture.md defines it, for forced answers."""
    numbers: list[int] = []
    for reference in references:
        before = numbers[-1] if numbers else 1
        numbers.append(before if reference is None else max(before, numbers[reference] + 1))
    return numbers


def numbered(references: list[int | None], first: int = 0) -> list[int]:
    questions = [forced("q", refer_to=reference) for reference in references]
    groups = waves(questions, first)
    assert [i for group in groups for i in group] == list(range(len(questions)))
    return [number for number, group in enumerate(groups, start=1) for _ in group]


def test_known_shapes() -> None:
    assert numbered([None, *[0] * 9])[-1] == 2, "a star of ten takes two passes"
    assert numbered([None, *range(9)])[-1] == 10, "a chain of ten takes ten"
    assert numbered([None, 0, None, 2]) == [1, 2, 2, 3]
    assert numbered([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_waves_follow_the_definition(draws: list[float]) -> None:
    references = [None if draw < 0.3 else int((draw - 0.3) / 0.7001 * k) for k, draw in enumerate(draws)]
    references = [None if k == 0 else reference for k, reference in enumerate(references)]
    assert numbered(references) == by_definition(references)


def test_masks_of_earlier_requests_are_known() -> None:
    assert numbered([3, 3, 0, 4], first=4) == [1, 1, 1, 2]


def test_a_free_round_ends_its_wave() -> None:
    questions = [forced("a"), free("b"), forced("c"), free("d"), free("e")]
    assert waves(questions, 0) == [range(2), range(2, 4), range(4, 5)]
