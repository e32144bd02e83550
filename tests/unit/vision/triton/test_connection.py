"""The connection to Triton, with a made-up client: what a real one seldom does, and never when a test wants it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from serving import request_context
from serving.errors import DeadlineExceeded, StillWriting, Unavailable
from serving.runtime.graph import Array, Interface
from serving.runtime.slab import Slab
from serving.vision.triton.client import ModelDescription, OutputTensor, TritonCall, TritonFailure
from serving.vision.triton.connection import Expected, TritonConnection

LATE = TritonFailure("DEADLINE_EXCEEDED", "Deadline Exceeded")
LOST = TritonFailure("UNAVAILABLE", "Socket closed")
NO_REGION = TritonFailure("NOT_FOUND", "Unable to find shared memory region: 'x'")
FORBIDDEN = TritonFailure("UNAVAILABLE", "This protocol is restricted, expecting header 'x'")
PATIENCE = 30.0


@dataclass
class MadeUp:
    """A client whose next answers a test chooses; it serves what is expected, and maps what it is told to."""

    fails: dict[str, list[TritonFailure]] = field(default_factory=dict)
    """By call, failures to come; then it succeeds."""
    said: list[str] = field(default_factory=list)
    mapped: dict[str, str] = field(default_factory=dict)
    queue_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    registers_late: bool = False
    """A failing ``register`` has mapped all the same."""

    def restart(self) -> None:
        self.mapped.clear()

    async def _answer(self, call: str) -> None:
        self.said.append(call)
        await asyncio.sleep(0)
        if self.fails.get(call):
            raise self.fails[call].pop(0)

    async def describe(self, model: str) -> ModelDescription:
        await self._answer("describe")
        return ModelDescription(Interface((), ()), "made up", {"graph_sha256": "d"})

    async def version(self) -> str:
        return "0"

    async def regions(self) -> dict[str, str]:
        await self._answer("regions")
        return dict(self.mapped)

    async def register(self, slab: Slab) -> None:
        if self.registers_late:
            self.mapped[slab.name] = slab.key
        await self._answer("register")
        self.mapped[slab.name] = slab.key

    async def infer(self, call: TritonCall, queue_seconds: float, seconds: float) -> dict[str, Array]:
        self.queue_seconds.append(queue_seconds)
        self.seconds.append(seconds)
        await self._answer("infer")
        return {}


@pytest.fixture
def slab() -> Iterator[Slab]:
    made = Slab(2, (4,), np.float32)
    yield made
    made.close()


@dataclass
class Tied:
    client: MadeUp
    connection: TritonConnection
    slab: Slab

    def call(self) -> TritonCall:
        slot = self.slab.take()
        assert slot is not None
        return TritonCall("model", (), (OutputTensor("output", slot, 16),), 1)


@pytest.fixture
def tied(slab: Slab) -> Tied:
    client = MadeUp()
    expected = [Expected("model", Interface((), ()), "d")]
    return Tied(client, TritonConnection(client, expected, [slab], PATIENCE), slab)  # type: ignore[arg-type]


def withheld(slab: Slab) -> int:
    """Withhold a slot, as a lost writer would have it."""
    slot = slab.take()
    assert slot is not None
    slab.withhold(slot)
    return slab.withheld


async def test_a_request_leaves_the_queue_before_it_counts_as_lost(tied: Tied) -> None:
    await tied.connection.ask(tied.call())
    request_context.set_deadline(5.0)
    await tied.connection.ask(tied.call())
    (unhurried, hurried), seconds = tied.client.queue_seconds, tied.client.seconds
    assert unhurried == pytest.approx(PATIENCE * 2 / 3)
    assert 4 < hurried <= 5
    assert seconds == [PATIENCE, PATIENCE]  # by reference: the reply is waited for, whatever the caller allowed


async def test_a_hung_server_is_unavailable_to_who_has_time(tied: Tied) -> None:
    tied.client.fails["describe"] = [LATE, LATE]
    with pytest.raises(Unavailable) as told:
        await tied.connection.ensure_ready()
    assert told.value.retry_after > 0
    request_context.set_deadline(0.0)
    with pytest.raises(DeadlineExceeded):
        await tied.connection.ensure_ready()


async def test_who_waits_for_a_handshake_has_its_failure(tied: Tied) -> None:
    tied.client.fails["describe"] = [LATE] * 8
    outcomes = await asyncio.gather(*(tied.connection.ensure_ready() for _ in range(8)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 8
    assert tied.client.said.count("describe") == 1
    tied.client.fails.clear()
    await tied.connection.ensure_ready()  # who comes later asks anew
    assert tied.connection.handshakes == 1


async def test_a_cancelled_handshake_is_nobodys_failure(tied: Tied) -> None:
    first, second = (asyncio.create_task(tied.connection.ensure_ready()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert tied.connection.handshakes == 1


async def test_a_lost_request_is_made_again_to_another_process(tied: Tied) -> None:
    await tied.connection.ensure_ready()
    tied.client.restart()
    tied.client.fails["infer"] = [LOST]
    assert await tied.connection.ask(tied.call()) == {}
    assert (tied.connection.retries, tied.connection.handshakes, tied.connection.mappings) == (1, 2, 2)


async def test_a_lost_request_is_not_made_again_to_the_same_process(tied: Tied) -> None:
    """It may still write."""
    await tied.connection.ensure_ready()
    tied.client.fails["infer"] = [LOST]
    with pytest.raises(StillWriting):
        await tied.connection.ask(tied.call())
    assert tied.client.said.count("infer") == 1


@pytest.mark.parametrize("call", ["regions", "register"])
async def test_no_answer_about_memory_is_no_refusal(tied: Tied, call: str) -> None:
    tied.client.fails[call] = [LATE]
    with pytest.raises(TritonFailure):
        await tied.connection.handshake()
    assert tied.connection.refusal == ""
    await tied.connection.handshake()
    assert tied.connection.maps(tied.slab.take())


async def test_a_refusal_is_forgotten_when_memory_is_mapped(tied: Tied, caplog: pytest.LogCaptureFixture) -> None:
    """After a restart with another key requests go by gRPC; after the next one, with ours, by reference."""
    slot = tied.slab.take()
    await tied.connection.handshake()
    assert tied.connection.maps(slot)
    tied.client.restart()
    tied.client.fails["register"] = [FORBIDDEN]
    with caplog.at_level(logging.WARNING):
        await tied.connection.handshake()
    assert not tied.connection.maps(slot)
    assert "admin-key" in tied.connection.refusal
    assert "embeddings go by gRPC" in caplog.text
    await tied.connection.handshake()
    assert tied.connection.maps(slot)
    assert tied.connection.refusal == ""


async def test_slots_are_withheld_while_the_process_is_the_same(tied: Tied) -> None:
    """Told by hand to let go of our memory, it is asked to map it again, and may still write."""
    await tied.connection.ensure_ready()
    assert withheld(tied.slab) == 1
    call = tied.call()
    tied.client.restart()
    tied.client.fails["infer"] = [NO_REGION]
    await tied.connection.ask(call)
    assert (tied.connection.mappings, tied.slab.withheld) == (2, 1)


async def test_slots_are_free_when_the_process_is_another(tied: Tied) -> None:
    await tied.connection.ensure_ready()
    assert withheld(tied.slab) == 1
    tied.client.fails["describe"] = [LOST]
    with pytest.raises(TritonFailure):
        await tied.connection.handshake()
    tied.client.restart()
    await tied.connection.ensure_ready()
    assert tied.slab.withheld == 0


async def test_slots_are_free_when_another_process_was_slow_to_say_that_it_maps(tied: Tied) -> None:
    await tied.connection.ensure_ready()
    assert withheld(tied.slab) == 1
    tied.client.restart()
    tied.client.registers_late = True
    tied.client.fails = {"describe": [LOST], "register": [LATE]}
    for _ in range(2):
        with pytest.raises(TritonFailure):
            await tied.connection.handshake()
        assert tied.slab.withheld == 1
    await tied.connection.ensure_ready()
    assert tied.slab.withheld == 0
