"""When masks are cut out for a next question, and when they are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from serving.domain import Mask, Priority, Reference, SourceImage
from serving.geometry import Geometry
from serving.sessions import crops
from tests.unit.serving.test_orchestrator import ALWAYS, OFF, Stack, dialogue, essence, forced, serving

stack = serving  # a fixture


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rounds whose masks were cut out, in order."""
    plain: Callable[..., Reference] = Geometry.reference
    rounds: list[int] = []

    def counted(self: Geometry, image: SourceImage, mask: Mask, round_index: int) -> Reference:
        rounds.append(round_index)
        return plain(self, image, mask, round_index)

    monkeypatch.setattr(Geometry, "reference", counted)
    return rounds


async def test_the_mask_before_is_cut_before_it_is_asked_about(stack: Stack, cut: list[int]) -> None:
    ask, session = stack.orchestrator.ask, await stack.open()
    first = await ask(session, "me", forced(), OFF)
    await _idle(stack)
    assert cut == [0]
    second = await ask(session, "me", forced(refer_to=0), OFF)
    await _idle(stack)
    assert cut == [0, 1]
    third = await ask(session, "me", forced(refer_to=0), OFF)  # not about the one that was cut
    await _idle(stack)
    assert cut == [0, 1, 2]
    fourth = await ask(session, "me", forced(refer_to=1), OFF)
    await _idle(stack)
    assert cut == [0, 1, 2, 1, 3]
    crops_shown = [each.reference and each.reference.round for each in (first, second, third, fourth)]
    assert crops_shown == [None, 0, 0, 1]
    whole = await stack.all(await stack.open(), [forced(refer_to=k) for k in (None, 0, 0, 1)], OFF)
    assert essence([first, second, third, fourth]) == essence(whole)


async def test_nothing_is_cut_ahead_for_programs_or_beside_others(
    stack: Stack, cut: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, session = stack.orchestrator.ask, await stack.open()
    await ask(session, "me", forced(), ALWAYS, Priority.BATCH)
    await stack.all(session, dialogue([None, None]), OFF)
    with stack.orchestrator.crops.working():
        await ask(session, "me", forced(), ALWAYS)
    await _idle(stack)
    assert cut == []


async def test_what_was_cut_ahead_ends_with_the_session_and_is_bounded(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "_MOST_AHEAD", 2)
    held = stack.orchestrator.crops._ahead
    sessions = [await stack.open(np.full((16, 16, 3), 9 + k, np.uint8)) for k in range(3)]
    for session in sessions:
        await stack.orchestrator.ask(session, "me", forced(), OFF)
    assert list(held) == [("me", session) for session in sessions[1:]]
    for session in sessions:
        await stack.orchestrator.close(session, "me")
    assert not held


async def _idle(stack: Stack) -> None:
    for ahead in stack.orchestrator.crops._ahead.values():
        ahead.cut.result(10)
