"""What every EmbeddingStore does, wherever the values lie."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest

from serving import request_context
from serving.errors import EngineFault, Exhausted
from serving.ports import EmbeddingLease, EmbeddingStore
from serving.runtime.record import RuntimeRecord
from serving.runtime.slab import Slab
from serving.stores.embeddings import MemoryEmbeddings
from tests.scripted.embeddings import SlotEmbeddings

SHAPE = (2, 3, 3)
SIZE = 2 * 3 * 3 * 4
PLACES = 2
"""Embeddings that fit the budget."""


@pytest.fixture(params=["memory", "slots", "slab", "slab and memory"])
def store(request: pytest.FixtureRequest) -> Iterator[EmbeddingStore]:
    if request.param == "slots":
        yield SlotEmbeddings(PLACES, SHAPE, np.float32)
        return
    slots = {"slab": PLACES, "slab and memory": 1}.get(request.param, 0)
    slab = Slab(slots, SHAPE, np.float32) if slots else None
    yield MemoryEmbeddings(PLACES * SIZE + SIZE // 2, SHAPE, np.float32, slab)
    if slab:
        slab.close()


class Encoder:
    """Fills with a number, at a gate, and counts."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun: list[float] = []
        self.ended = 0
        self.cancelled = 0
        self.error: Exception | None = None

    def fill(self, number: float) -> Callable[[EmbeddingLease], Awaitable[None]]:
        async def fill(lease: EmbeddingLease) -> None:
            self.begun.append(number)
            try:
                await self.gate.wait()
                if self.error:
                    raise self.error
                lease.values[...] = number
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)  # as an engine that must first end its run
                self.cancelled += 1
                raise
            finally:
                self.ended += 1

        return fill


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


async def filled(store: EmbeddingStore, key: str, number: float) -> EmbeddingLease:
    async def fill(lease: EmbeddingLease) -> RuntimeRecord:
        assert lease.encoder is None
        lease.values[...] = number
        return RuntimeRecord(f"encoder {number}")

    return await store.acquire(key, fill)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_miss_fills_and_a_hit_does_not(store: EmbeddingStore) -> None:
    first = await filled(store, "a", 1)
    assert (first.key, first.hit, first.values.shape) == ("a", False, SHAPE)
    assert (first.values == 1).all()
    store.release(first)
    second = await filled(store, "a", 2)
    assert second.hit
    assert (second.values == 1).all()
    assert first.encoder == second.encoder == RuntimeRecord("encoder 1")


async def test_one_key_is_leased_many_times_at_once(store: EmbeddingStore) -> None:
    leases = [await filled(store, "a", 1) for _ in range(5)]
    for lease in leases[:4]:
        store.release(lease)
    await filled(store, "b", 2)
    with pytest.raises(Exhausted):
        await filled(store, "c", 3)
    assert (leases[4].values == 1).all()


async def test_simultaneous_misses_fill_once(store: EmbeddingStore, encoder: Encoder) -> None:
    assert not store.holds("a")
    assert not await store.settled("a")
    calls = [asyncio.create_task(store.acquire("a", encoder.fill(n))) for n in range(8)]
    await turns()
    assert store.holds("a")
    settled = asyncio.create_task(store.settled("a"))
    await turns()
    assert not settled.done()
    encoder.gate.set()
    leases = await asyncio.gather(*calls)
    assert await settled
    assert not await store.settled("a")
    assert encoder.begun == [0]
    assert [lease.hit for lease in leases] == [False] + [True] * 7
    assert all((lease.values == 0).all() for lease in leases)


async def test_a_fill_outlasts_the_deadline_of_who_asked_first(store: EmbeddingStore) -> None:
    """It is for all who wait."""
    left: list[float | None] = []

    async def fill(lease: EmbeddingLease) -> None:
        left.append(request_context.remaining())
        lease.values[...] = 1

    request_context.set_deadline(5.0)
    await store.acquire("a", fill)
    assert left == [None]
    assert request_context.remaining() is not None


async def test_different_keys_fill_side_by_side(store: EmbeddingStore, encoder: Encoder) -> None:
    calls = [asyncio.create_task(store.acquire(key, encoder.fill(1))) for key in ("a", "b")]
    await turns()
    assert len(encoder.begun) == 2
    encoder.gate.set()
    await asyncio.gather(*calls)


async def test_the_least_recently_used_gives_way(store: EmbeddingStore) -> None:
    for key, number in (("a", 1), ("b", 2), ("a", 1), ("c", 3)):
        store.release(await filled(store, key, number))
    assert (await filled(store, "a", 9)).hit
    again = await filled(store, "b", 8)
    assert not again.hit
    assert (again.values == 8).all()


async def test_what_nobody_asked_for_gives_way_first(store: EmbeddingStore) -> None:
    for key in ("asked", "unasked"):
        store.release(await filled(store, key, 1))
    store.demote("unasked")
    store.demote("unknown")
    store.release(await filled(store, "new", 1))
    assert [store.holds(key) for key in ("asked", "unasked", "new")] == [True, False, True]
    store.demote("asked")
    store.release(await filled(store, "asked", 2))
    store.release(await filled(store, "newer", 1))
    assert [store.holds(key) for key in ("asked", "new", "newer")] == [True, False, True]


async def test_a_leased_embedding_is_never_overwritten(store: EmbeddingStore) -> None:
    held = await filled(store, "a", 1)
    for number in range(2, 9):
        store.release(await filled(store, f"other {number}", number))
        assert (held.values == 1).all()
    store.release(held)


async def test_exhausted_when_all_is_leased_and_not_after(store: EmbeddingStore) -> None:
    first, second = await filled(store, "a", 1), await filled(store, "b", 2)
    with pytest.raises(Exhausted):
        await filled(store, "c", 3)
    assert (await filled(store, "a", 9)).hit
    store.release(second)
    third = await filled(store, "c", 3)
    assert (third.values == 3).all()
    assert (first.values == 1).all()


async def test_a_failed_fill_reaches_all_who_wait_and_is_forgotten(
    store: EmbeddingStore, encoder: Encoder
) -> None:
    encoder.error = EngineFault("broken")
    calls = [asyncio.create_task(store.acquire("a", encoder.fill(1))) for _ in range(3)]
    await turns()
    encoder.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results == [encoder.error] * 3
    for key in ("a", "b"):  # no place was lost
        assert not (await filled(store, key, 5)).hit


async def test_a_fill_goes_on_while_one_still_waits(store: EmbeddingStore, encoder: Encoder) -> None:
    first = asyncio.create_task(store.acquire("a", encoder.fill(1)))
    second = asyncio.create_task(store.acquire("a", encoder.fill(2)))
    await turns()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    encoder.gate.set()
    lease = await second
    assert (lease.values == 1).all()
    assert (encoder.begun, encoder.cancelled) == ([1], 0)


async def test_a_fill_nobody_waits_for_is_cancelled_and_ends_first(
    store: EmbeddingStore, encoder: Encoder
) -> None:
    calls = [asyncio.create_task(store.acquire("a", encoder.fill(1))) for _ in range(2)]
    await turns()
    for call in calls:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    assert (encoder.cancelled, encoder.ended) == (1, 1)
    first, second = await filled(store, "a", 2), await filled(store, "b", 3)
    assert not first.hit
    assert (first.values == 2).all()
    store.release(second)


async def test_the_place_of_a_fill_that_is_ending_is_not_given_away(
    store: EmbeddingStore, encoder: Encoder
) -> None:
    """Cancelled is not free: until the fill ended, it may write."""
    held = await filled(store, "held", 1)
    call = asyncio.create_task(store.acquire("a", encoder.fill(1)))
    await turns()
    call.cancel()
    await turns(2)
    with pytest.raises(Exhausted):
        await filled(store, "b", 2)
    await asyncio.gather(call, return_exceptions=True)
    assert (await filled(store, "b", 2)).values.max() == 2
    store.release(held)


async def test_a_wait_cancelled_twice_still_ends_after_the_fill(store: EmbeddingStore, encoder: Encoder) -> None:
    call = asyncio.create_task(store.acquire("a", encoder.fill(1)))
    await turns()
    call.cancel()
    await turns(2)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert encoder.ended == 1


async def test_a_lease_is_given_back_once(store: EmbeddingStore) -> None:
    lease = await filled(store, "a", 1)
    store.release(lease)
    with pytest.raises(ValueError, match="not held"):
        store.release(lease)
