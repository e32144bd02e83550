"""Kept sessions in a real Redis: after a restart, by two servers, and within limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import redis as library

from serving.errors import Exhausted, NotFound, PreconditionFailed, Reason, Unavailable
from serving.history import changes
from serving.sessions.keeper import SessionKeeper
from serving.stores.kept.records import StoreLimits
from serving.stores.redis.connection import Connection
from tests.scripted.pictures import append
from tests.unit.serving.in_redis import IDLE, LIFETIME, Place, asked, rounds_of
from tests.unit.serving.kept import CALLER, GEOMETRY, KEY, WORDS, answered, dialogue, image, new, plain

# ---- what is kept


async def test_a_session_is_the_same_after_a_restart(place: Place) -> None:
    async with place.opened(images=True) as first:
        await first.create(new())
        before = await dialogue(first)
    async with place.opened(images=True) as second:
        assert [each.parked for each in await second.page(CALLER, None, 5)] == [True]
        async with second.exclusive("s", CALLER) as held:
            assert plain(held.record) == plain(before)
            assert plain(held.image) == plain(image())
            shorter = changes.with_first_rounds(held.record, 2, None)
            await second.commit(shorter)
    async with place.opened() as third, third.exclusive("s", CALLER) as held:
        assert plain(held.record) == plain(shorter)
        assert changes.earlier_request(held.record, KEY).results[2].round.seeded, "also of undone rounds"


async def test_a_session_without_its_image_needs_it_again(place: Place) -> None:
    async with place.opened() as first:
        await first.create(new())
        await dialogue(first)
    async with place.opened() as second:
        with pytest.raises(PreconditionFailed) as refused:
            await rounds_of(second)
        assert refused.value.reason is Reason.NEEDS_IMAGE
        await second.resume("s", CALLER, image())
        assert await rounds_of(second) == 4
    assert list(place.client.scan_iter("*image*")) == []


async def test_what_is_too_old_is_deleted_and_its_owner_told(place: Place) -> None:
    async with place.opened(images=True) as store:
        await store.create(new())
        await dialogue(store)
        kept = [key for kind in ("session", "image") for key in place.client.scan_iter(f"mediround:{kind}:*")]
        assert len(kept) == 2
        assert all(LIFETIME < place.client.ttl(key) <= LIFETIME + 600 for key in kept), "also without a server"
    place.now += LIFETIME
    for _ in range(2):
        async with place.opened() as store:
            with pytest.raises(NotFound) as gone:
                await store.read("s", CALLER)
            assert gone.value.reason is Reason.SESSION_EXPIRED
            with pytest.raises(PreconditionFailed):
                await store.create(new())
    left = {key.split(b":")[1] for key in place.client.scan_iter("*")}
    assert left == {b"sessions", b"ended"}
    assert place.client.hget("mediround:sessions", "bytes") == b"0"


async def test_a_closed_session_is_closed_after_a_restart(place: Place) -> None:
    async with place.opened() as store:
        await store.create(new())
        await store.close("s", CALLER)
    async with place.opened() as store:
        await store.close("s", CALLER)
        with pytest.raises(PreconditionFailed) as closed:
            await store.read("s", CALLER)
        assert closed.value.reason is Reason.SESSION_CLOSED
        with pytest.raises(NotFound):
            await store.close("s", "another")


@pytest.mark.parametrize("key", [bytes(32), None])
async def test_who_reads_it_learns_no_caller_and_with_a_key_no_word(place: Place, key: bytes | None) -> None:
    async with place.opened(key=key) as store:
        await store.create(new("kept-session-id"))
        await dialogue(store, "kept-session-id")
        names = list(place.client.scan_iter("*"))
        raw = b"".join(names) + b"".join(filter(None, map(place.client.dump, names)))
        raw += repr([place.client.hgetall(name) for name in names if b":session:" in name]).encode()
    assert b"Anna" not in raw
    assert b"kept-session-id" not in b"".join(names)
    assert (WORDS.encode() in raw, b"kept-session-id" in raw) == (key is None, key is None)


async def test_another_servers_change_is_seen_and_never_written_over(place: Place) -> None:
    async with place.opened(images=True) as one, place.opened(images=True) as two:
        await one.create(new())
        async with two.exclusive("s", CALLER) as theirs:
            await asked(one)
            with pytest.raises(Unavailable, match="another server"):
                await append(two, theirs, [answered(2)])
        for store in (one, two):
            async with store.exclusive("s", CALLER) as held:
                assert [each.round_id for each in held.rounds] == ["r1"]
        gone: list[tuple[str, str]] = []
        two.on_gone(lambda *session: gone.append(session))
        await one.close("s", CALLER)
        with pytest.raises(PreconditionFailed) as closed:
            await two.read("s", CALLER)
        assert closed.value.reason is Reason.SESSION_CLOSED
        assert (two.count, gone) == (0, [("s", CALLER)])


async def test_a_server_of_another_model_reads_and_changes_nothing(place: Place) -> None:
    async with place.opened(images=True) as store, place.opened(images=True) as theirs:
        await store.create(new())
        before = await dialogue(store)
        other = SessionKeeper(theirs, GEOMETRY, place.executor, "another model's")
        assert len((await other.read("s", CALLER)).record.rounds) == 4
        with pytest.raises(PreconditionFailed) as refused:
            await other.rewind("s", CALLER, 0, None, None)
        assert refused.value.reason is Reason.OTHER_MODEL
        async with store.exclusive("s", CALLER) as held:
            assert held.record.version == before.version


async def test_what_was_carried_out_unheard_is_carried_out_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends after each script, before its answer comes."""
    plain_run = Connection._asked

    def lost(self: Connection, job: Callable[[library.Redis], object]) -> object:
        job(self._client)
        return plain_run(self, job)

    monkeypatch.setattr(Connection, "_asked", lost)
    async with place.opened(images=True) as store:
        await store.create(new())
        await asked(store)
        await asked(store, 2)
        assert await rounds_of(store) == 2
        held = int(place.client.hget("mediround:sessions", "bytes"))
        await store.create(new("t"))
        await store.close("t", CALLER)
        assert int(place.client.hget("mediround:sessions", "bytes")) == held
        await store.close("s", CALLER)
    assert place.client.hget("mediround:sessions", "bytes") == b"0"


# ---- limits


async def test_one_caller_does_not_take_the_place_of_others(place: Place) -> None:
    async with place.opened(limits=StoreLimits(max_per_caller=2)) as store:
        for name in ("one", "two"):
            await store.create(new(name))
        place.now += IDLE  # parked ones count
        with pytest.raises(Exhausted, match="of one caller"):
            await store.create(new("three"))
        for other in ({"caller": "another"}, {"account": "of another connection"}):
            made = new("other")
            await store.create(replace(made, record=replace(made.record, **other)))
        await store.close("one", CALLER)
        await store.create(new("three"))


@pytest.mark.parametrize("limit", ["max_bytes", "max_bytes_per_caller"])
async def test_bytes_are_limited_and_nothing_is_kept_by_half(place: Place, limit: str) -> None:
    async with place.opened(images=True, limits=StoreLimits(**{limit: 60_000})) as store:
        await store.create(new())
        with pytest.raises(Exhausted) as full:
            for number in range(1, 100):
                await asked(store, number)
        assert full.value.retry_after > 0
        assert await rounds_of(store) == number - 1 > 3
        async with store.exclusive("s", CALLER) as held:
            await store.commit(changes.with_first_rounds(held.record, 1, None))
        await asked(store, 2)
    async with place.opened() as store:
        assert len((await store.read("s", CALLER)).record.rounds) == 2
