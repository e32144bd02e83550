"""Turns and shares of bytes: who works, who waits, and that all is given back."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from serving.admission.permits import ByteBudget
from serving.admission.turns import Turns
from serving.domain import Priority
from serving.errors import Exhausted, Shed

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH


class Crowd:
    """Workers that hold their turn until they are let go."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.begun = turns, list[str]()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._done: dict[str, asyncio.Event] = {}

    async def come(self, name: str, priority: Priority = INTERACTIVE) -> None:
        self._done[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._work(name, priority))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def end(self, name: str) -> None:
        self._done[name].set()
        await self.tasks[name]
        await asyncio.sleep(0)

    async def _work(self, name: str, priority: Priority) -> None:
        async with self.turns.turn(priority):
            self.begun.append(name)
            await self._done[name].wait()


@pytest.fixture
def crowd() -> Crowd:
    return Crowd(Turns(2, 4, "images", Shed.UPLOADS))


async def test_the_others_wait_in_the_order_of_their_arrival(crowd: Crowd) -> None:
    for name in "abcd":
        await crowd.come(name)
    assert (crowd.begun, crowd.turns.in_use, crowd.turns.waiting) == (["a", "b"], 2, 2)
    await crowd.end("b")
    await crowd.end("a")
    assert crowd.begun == list("abcd")
    for name in "cd":
        await crowd.end(name)
    assert (crowd.turns.in_use, crowd.turns.waiting) == (0, 0)


async def test_interactive_work_goes_first_and_batch_has_at_most_half(crowd: Crowd) -> None:
    for name in ("batch 1", "batch 2"):
        await crowd.come(name, BATCH)
    assert crowd.begun == ["batch 1"]
    await crowd.come("a")
    await crowd.come("b")
    assert crowd.begun == ["batch 1", "a"]
    await crowd.end("batch 1")
    assert crowd.begun == ["batch 1", "a", "b"], "batch 2 came first, and waits"
    await crowd.end("a")
    assert crowd.begun[-1] == "batch 2"
    for name in ("b", "batch 2"):
        await crowd.end(name)


async def test_who_leaves_gives_back_what_they_had(crowd: Crowd) -> None:
    for name in "abc":
        await crowd.come(name)
    for name in "ca":
        crowd.tasks[name].cancel()
        with pytest.raises(asyncio.CancelledError):
            await crowd.tasks[name]
    assert (crowd.turns.in_use, crowd.turns.waiting) == (1, 0)
    await crowd.come("d")
    assert crowd.begun == list("abd")
    for name in "bd":
        await crowd.end(name)


async def test_a_turn_that_is_given_while_its_task_is_cancelled_is_not_lost(crowd: Crowd) -> None:
    for name in "abc":
        await crowd.come(name)
    crowd._done["a"].set()
    await crowd.tasks["a"]  # c has the turn now, and is not yet awake
    crowd.tasks["c"].cancel()
    with pytest.raises(asyncio.CancelledError):
        await crowd.tasks["c"]
    assert crowd.turns.in_use == 1
    await crowd.end("b")


async def test_no_more_wait_than_may(crowd: Crowd) -> None:
    for name in "abcdef":
        await crowd.come(name)
    with pytest.raises(Exhausted, match="4 images wait already") as refused:
        async with crowd.turns.turn(INTERACTIVE):
            pass
    assert refused.value.reason is Shed.UPLOADS
    for name in "abcdef":
        await crowd.end(name)


def test_a_budget_of_bytes() -> None:
    budget = ByteBudget(100, "images", Shed.UPLOADS)
    with budget.share() as mine, budget.share() as theirs:
        mine(60)
        theirs(40)
        with pytest.raises(Exhausted, match="images hold all the memory"):
            mine(1)
        assert budget.nbytes == 100
    assert budget.nbytes == 0


def test_whatever_some_payers_hold_another_finds_room() -> None:
    budget, payers = ByteBudget(96, "images", Shed.UPLOADS), [("anna", ""), ("bert", ""), ("bert", "ward")]
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(budget.share(payer)) for payer in payers)
        first(40)
        again = stack.enter_context(budget.share(payers[0]))
        again(8)  # half of all
        with pytest.raises(Exhausted, match="your images hold all the memory that one caller may have"):
            again(1)
        second(24)
        with pytest.raises(Exhausted, match="your images"):
            second(1)
        third(12)
        assert budget.nbytes == 84
        with pytest.raises(Exhausted, match=r"^images hold"):
            third(13)
    assert (budget.nbytes, budget._held) == (0, {})
