"""What the memory store counts and refuses beyond its contract."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serving.ports import EmbeddingLease
from serving.stats import EmbeddingStats, PlacementStats
from serving.stores.embeddings import MemoryEmbeddings

SHAPE = (2, 4)
SIZE = 16
"""Bytes of an embedding in float16."""


@pytest.fixture
def store() -> MemoryEmbeddings:
    return MemoryEmbeddings(2 * SIZE, SHAPE, "float16")


async def ones(lease: EmbeddingLease) -> None:
    lease.values[...] = 1


async def fails(lease: EmbeddingLease) -> None:
    raise ZeroDivisionError


def test_a_budget_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="holds no embedding"):
        MemoryEmbeddings(SIZE - 1, SHAPE, "float16")


async def test_it_counts(store: MemoryEmbeddings) -> None:
    assert store.stats == EmbeddingStats(hits=0, misses=0, evictions=0, nbytes=0)
    first = await store.acquire("a", ones)
    assert first.values.dtype == np.float16
    again = await store.acquire("a", ones)
    assert store.stats == EmbeddingStats(hits=1, misses=1, evictions=0, nbytes=SIZE, own=PlacementStats(1, 1))
    store.release(first)
    assert store.stats.leased == 1
    store.release(again)
    assert store.stats == EmbeddingStats(hits=1, misses=1, evictions=0, nbytes=SIZE, own=PlacementStats(1, 0))
    for key in ("b", "c"):
        store.release(await store.acquire(key, ones))
    assert store.stats == EmbeddingStats(hits=1, misses=3, evictions=1, nbytes=2 * SIZE, own=PlacementStats(2, 0))


async def test_a_failed_fill_gives_its_bytes_back(store: MemoryEmbeddings) -> None:
    with pytest.raises(ZeroDivisionError):
        await store.acquire("a", fails)
    assert (store.stats.nbytes, store.stats.leased) == (0, 0)


async def test_a_filled_embedding_cannot_be_written(store: MemoryEmbeddings) -> None:
    lease = await store.acquire("a", ones)
    with pytest.raises(ValueError, match="read-only"):
        lease.values[0, 0] = 2


async def test_a_cancelled_fill_counts_until_it_ended(store: MemoryEmbeddings) -> None:
    release = asyncio.Event()

    async def stubborn(lease: EmbeddingLease) -> None:
        """Ends in its own time, and not even with an error."""
        try:
            await release.wait()
        except asyncio.CancelledError:
            await release.wait()
        lease.values[...] = 9

    call = asyncio.create_task(store.acquire("a", stubborn))
    await asyncio.sleep(0.001)
    call.cancel()
    await asyncio.sleep(0.001)
    assert (store.stats.nbytes, store.stats.leased) == (SIZE, 1)
    fresh = await store.acquire("a", ones)
    assert not fresh.hit
    assert store.stats.nbytes == 2 * SIZE
    release.set()
    await asyncio.gather(call, return_exceptions=True)
    assert store.stats.nbytes == SIZE
    assert (fresh.values == 1).all()


async def test_a_lease_of_another_store_is_refused(store: MemoryEmbeddings) -> None:
    lease = await MemoryEmbeddings(SIZE, SHAPE, "float16").acquire("a", ones)
    with pytest.raises(ValueError, match="not held"):
        store.release(lease)
