"""What the memory store counts and forgets beyond its contract."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.errors import NotFound, PreconditionFailed
from serving.history import changes
from serving.stores.sessions import MemorySessions
from tests.scripted.pictures import append, finished_round, session
from tests.unit.serving.manifests import manifest

MODEL = manifest()


def make(now: list[float]) -> MemorySessions:
    return MemorySessions(100, 2**30, 60.0, lambda: now[0], max_remembered=2)


async def test_bytes_grow_with_rounds_and_go_with_the_session() -> None:
    store, created, added = make([0.0]), session(MODEL, "s"), finished_round(MODEL, 1)
    await store.create(created)
    assert store.nbytes == created.image.nbytes
    masks = {each.digest: each.packed.nbytes for each in added.masks}
    async with store.exclusive("s", "anna") as held:
        await append(store, held, [added])
    assert added.reference is not None
    beside = sum(masks.values()) + added.reference.crop.pixels.nbytes
    assert store.nbytes == created.image.nbytes + beside + 1024
    async with store.exclusive("s", "anna") as held:
        # The mask that it used is the first round's, and counts once; one that is equal, and made anew, counts.
        second = finished_round(MODEL, 2)
        assert second.used is not None
        used = replace(second.used, referred=replace(second.used.referred, mask=added.mask))
        grown = await append(store, held, [replace(second, used=used, segmentation=None)])
        assert second.reference is not None
        more = second.reference.crop.pixels.nbytes + 1024
        assert store.nbytes == created.image.nbytes + beside + 1024 + more
        await store.commit(changes.with_first_rounds(grown.record, 1, None))
    assert store.nbytes == created.image.nbytes + beside + 1024
    await store.close("s", "anna")
    assert (store.nbytes, store.count) == (0, 0)


async def test_closed_sessions_are_remembered_in_bounds() -> None:
    store = make([0.0])
    for name in ("a", "b", "c"):
        await store.create(session(MODEL, name))
        await store.close(name, "anna")
    with pytest.raises(NotFound):
        await store.close("a", "anna")
    for name in ("b", "c"):
        with pytest.raises(PreconditionFailed):
            async with store.exclusive(name, "anna"):
                pass


async def test_a_kept_session_that_has_expired_says_that_memory_does_not_keep_it() -> None:
    now = [0.0]
    store, made = make(now), session(MODEL, "s")
    await store.create(replace(made, record=replace(made.record, keep=True)))
    now[0] = 60.0
    with pytest.raises(NotFound, match="keeps sessions in memory alone"):
        await store.read("s", "anna")


async def test_an_old_session_that_is_held_does_not_hide_expired_ones() -> None:
    now = [0.0]
    store = make(now)
    await store.create(session(MODEL, "held"))
    await store.create(session(MODEL, "idle"))
    async with store.exclusive("held", "anna"):
        now[0] = 100.0
        await store.create(session(MODEL, "new"))
        assert store.count == 2
    assert store.count == 2
