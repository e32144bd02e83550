"""What the memory store counts and forgets beyond its contract."""

from __future__ import annotations

import pytest

from serving.errors import NotFound, PreconditionFailed
from serving.stores.sessions import MemorySessions
from tests.scripted.pictures import finished_round, session
from tests.unit.serving.manifests import manifest

MODEL = manifest()


def make(now: list[float]) -> MemorySessions:
    return MemorySessions(100, 2**30, 60.0, lambda: now[0], max_remembered=2)


async def test_bytes_grow_with_rounds_and_go_with_the_session() -> None:
    store, created, added = make([0.0]), session(MODEL, "s"), finished_round(MODEL, 1)
    await store.create(created)
    assert store.nbytes == created.image.nbytes
    async with store.exclusive("s", "anna") as held:
        await store.append(held, [added])
    assert added.mask is not None
    assert added.reference is not None
    grown = created.image.nbytes + added.mask.packed.nbytes + added.reference.crop.pixels.nbytes
    assert store.nbytes == grown
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


async def test_an_id_is_never_used_twice() -> None:
    store = make([0.0])
    await store.create(session(MODEL, "s"))
    with pytest.raises(ValueError, match="used before"):
        await store.create(session(MODEL, "s"))
    await store.close("s", "anna")
    with pytest.raises(ValueError, match="used before"):
        await store.create(session(MODEL, "s"))


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
