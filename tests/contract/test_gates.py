"""What every Gate does, however it chooses."""

from __future__ import annotations

import asyncio
import time

import pytest

from serving.admission.cost import CostModel
from serving.admission.permits import OpenGate
from serving.admission.queue import AdmissionQueue
from serving.domain import Priority
from serving.ports import ExpectedWork, Gate

WORK = ExpectedWork(encodes=1, passes=2, masks=3)


@pytest.fixture(params=["queue", "open"])
def gate(request: pytest.FixtureRequest) -> Gate:
    if request.param == "open":
        return OpenGate()
    return AdmissionQueue(4, 3, dict.fromkeys(Priority, 3600.0), CostModel(), time.monotonic)


@pytest.mark.parametrize("priority", Priority)
async def test_everybody_is_let_in_at_last(gate: Gate, priority: Priority) -> None:
    inside = most = 0

    async def one(caller: str) -> None:
        nonlocal inside, most
        async with gate.admitted(WORK, caller, priority):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    async with asyncio.timeout(10):
        await asyncio.gather(*(one(f"caller {number % 3}") for number in range(20)))
    assert inside == 0
    places = {Priority.INTERACTIVE: 3, Priority.BATCH: 2}  # each encodes
    assert most == (20 if isinstance(gate, OpenGate) else places[priority])


@pytest.mark.parametrize("hit", [False, True])
async def test_those_whose_image_is_encoded_hold_up_no_image(gate: Gate, hit: bool) -> None:
    """However often it is told, also when the place was given back."""
    inside, go = 0, asyncio.Event()

    async def one() -> None:
        nonlocal inside
        async with gate.admitted(WORK, "caller", Priority.INTERACTIVE) as place:
            inside += 1
            place.encoded(hit=hit)
            place.encoded(hit=not hit)
            await go.wait()
        place.encoded(hit=hit)

    tasks = [asyncio.create_task(one()) for _ in range(6)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert inside == (6 if isinstance(gate, OpenGate) else 4)
    go.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)


async def test_a_place_comes_back_however_the_work_ends(gate: Gate) -> None:
    async def fail(error: BaseException) -> None:
        async with gate.admitted(WORK, "caller", Priority.INTERACTIVE):
            raise error

    for error in [ValueError(), asyncio.CancelledError(), GeneratorExit()] * 3:
        with pytest.raises(type(error)):
            await fail(error)
    async with asyncio.timeout(10), gate.admitted(WORK, "caller", Priority.INTERACTIVE):
        pass


async def test_who_waits_may_be_cancelled(gate: Gate) -> None:
    go = asyncio.Event()

    async def one() -> None:
        async with gate.admitted(WORK, "caller", Priority.INTERACTIVE):
            await go.wait()

    tasks = [asyncio.create_task(one()) for _ in range(6)]
    await asyncio.sleep(0)
    for task in tasks[1:5]:
        task.cancel()
    await asyncio.sleep(0)
    go.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in ended] == [type(None), *[asyncio.CancelledError] * 4, type(None)]
