"""Slots in shared memory: taking, withholding, and what is left of the dead."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.errors import StillWriting, Unavailable
from serving.ports import EmbeddingLease
from serving.runtime import slab as module
from serving.runtime.slab import DIRECTORY, PREFIX, Slab, SlabError, Slot, is_gone, sweep
from serving.stats import PlacementStats
from serving.stores.embeddings import MemoryEmbeddings

SHAPE = (2, 5)
SIZE = 2 * 5 * 4


@pytest.fixture
def slab() -> Iterator[Slab]:
    made = Slab(2, SHAPE, np.float32)
    yield made
    made.close()


def taken(slab: Slab) -> Slot:
    slot = slab.take()
    assert slot is not None
    return slot


def test_what_is_written_in_a_slot_is_in_the_file_at_its_offset(slab: Slab) -> None:
    first, second = taken(slab), taken(slab)
    first.values[...], second.values[...] = 1, 2
    assert second.offset - first.offset == 64
    data = (DIRECTORY / slab.name).read_bytes()
    assert len(data) == slab.nbytes
    for slot, number in ((first, 1), (second, 2)):
        assert (np.frombuffer(data, np.float32, 10, slot.offset) == number).all()
    assert slab.take() is None
    slab.give_back(first)
    assert taken(slab).offset == first.offset


def test_a_withheld_slot_is_nobodys_until_a_new_server_maps_the_region(slab: Slab) -> None:
    lost, other = taken(slab), taken(slab)
    assert (slab.free, slab.taken, slab.withheld) == (0, 2, 0)
    slab.withhold(lost)
    slab.give_back(other)
    assert (slab.free, slab.taken, slab.withheld) == (1, 0, 1)
    assert taken(slab).offset == other.offset
    assert slab.take() is None
    slab.remapped()
    assert taken(slab).offset == lost.offset


def test_close_leaves_nothing_and_arrays_stay_readable() -> None:
    made = Slab(1, SHAPE, np.float32)
    slot = taken(made)
    slot.values[...] = 3
    assert not is_gone(made.key)
    made.close()
    made.close()
    assert is_gone(made.key)
    assert (slot.values == 3).all()


def test_a_sweep_takes_the_dead_ones_and_leaves_the_living(slab: Slab) -> None:
    program = "from serving.runtime.slab import Slab; print(Slab(1, (4,), 'f4').name)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    left = DIRECTORY / done.stdout.strip()
    assert left.exists()
    assert sweep() >= 1
    assert not left.exists()
    assert not is_gone(slab.key)


def test_more_than_the_host_has_is_refused_at_once() -> None:
    before = set(DIRECTORY.glob(f"{PREFIX}{os.getpid()}_*"))
    with pytest.raises(SlabError, match="shm-size"):
        Slab(1 << 12, (1 << 30,), np.uint8)
    assert set(DIRECTORY.glob(f"{PREFIX}{os.getpid()}_*")) == before


def test_a_directory_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "DIRECTORY", tmp_path / "missing")
    with pytest.raises(SlabError, match="cannot be made"):
        Slab(1, SHAPE, np.float32)


def store_on(slab: Slab, budget: int) -> MemoryEmbeddings:
    return MemoryEmbeddings(budget * SIZE, SHAPE, np.float32, slab)


async def filled(store: MemoryEmbeddings, key: str, number: float) -> EmbeddingLease:
    async def fill(lease: EmbeddingLease) -> None:
        lease.values[...] = number

    return await store.acquire(key, fill)


async def test_a_full_slab_moves_the_oldest_idle_one_out_and_it_is_still_a_hit(slab: Slab) -> None:
    store = store_on(slab, budget=3)
    for number, key in enumerate("abc"):
        store.release(await filled(store, key, number))
    stats = store.stats
    assert (stats.shared, stats.own) == (PlacementStats(2, 0), PlacementStats(1, 0))
    assert (stats.moved, stats.allocated, stats.evictions) == (1, 0, 0)
    moved = await filled(store, "a", 9)
    assert (moved.hit, moved.slot) == (True, None)
    assert (moved.values == 0).all()
    assert not moved.values.flags.writeable
    assert (await filled(store, "c", 9)).slot is not None


async def test_when_every_slot_is_leased_an_embedding_lies_beside_the_slab(slab: Slab) -> None:
    store = store_on(slab, budget=3)
    held = [await filled(store, key, number) for number, key in enumerate("ab")]
    beside = await filled(store, "c", 2)
    assert beside.slot is None
    assert (beside.values == 2).all()
    assert [lease.slot is not None for lease in held] == [True, True]
    assert (store.stats.shared, store.stats.own) == (PlacementStats(2, 2), PlacementStats(1, 1))
    assert (store.stats.allocated, store.stats.moved) == (1, 0)
    store.release(held[0])
    assert (store.stats.shared, store.stats.own) == (PlacementStats(2, 1), PlacementStats(1, 1))


async def test_the_slot_of_a_fill_that_may_go_on_is_given_to_nobody(slab: Slab) -> None:
    store = store_on(slab, budget=4)

    async def lost(lease: EmbeddingLease) -> None:
        raise StillWriting("lost")

    with pytest.raises(Unavailable):
        await store.acquire("a", lost)
    assert (slab.withheld, store.stats.nbytes) == (1, 0)
    assert (store.stats.shared, store.stats.own) == (PlacementStats(0, 0), PlacementStats(0, 0))
    leases = [await filled(store, key, 1) for key in "abc"]
    assert sum(lease.slot is not None for lease in leases) == 1


async def test_a_cancelled_fill_counts_where_it_still_writes(slab: Slab) -> None:
    store, ended = store_on(slab, budget=3), asyncio.Event()

    async def stubborn(lease: EmbeddingLease) -> None:
        try:
            await ended.wait()
        except asyncio.CancelledError:
            await ended.wait()

    call = asyncio.create_task(store.acquire("a", stubborn))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.sleep(0)
    assert (store.stats.shared, store.stats.own) == (PlacementStats(1, 1), PlacementStats(0, 0))
    ended.set()
    await asyncio.gather(call, return_exceptions=True)
    assert (store.stats.shared, slab.taken) == (PlacementStats(0, 0), 0)


async def test_evicted_slots_are_used_again(slab: Slab) -> None:
    store = store_on(slab, budget=2)
    for number in range(9):
        store.release(await filled(store, str(number), number))
    assert (store.stats.evictions, store.stats.shared, store.stats.moved) == (7, PlacementStats(2, 0), 0)
