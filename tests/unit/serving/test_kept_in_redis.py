"""Kept sessions in a real Redis: after a restart, by two servers, within limits, and when the Redis fails."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis as library

from loadtest.server_process import free_port
from serving.errors import Exhausted, NotFound, PreconditionFailed, Reason, ServingError, Unavailable
from serving.history import changes
from serving.observer import NullObserver, Observer, StoreOutcome
from serving.ports import SessionStore
from serving.sessions.keeper import SessionKeeper
from serving.stores.kept.records import VERSION, StoreLimits
from serving.stores.kept.sessions import KeptSessions
from serving.stores.redis.connection import Connection, RedisAddress
from serving.stores.redis.server import UnusableRedis
from serving.stores.sessions import MemorySessions
from tests.scripted import redis
from tests.scripted.pictures import append, finished_round, mask
from tests.service.certificates import Authority
from tests.unit.serving.kept import CALLER, GEOMETRY, KEY, MODEL, WORDS, answered, dialogue, image, new, plain

IDLE, LIFETIME = 60.0, 3600.0


@dataclass
class Place:
    """Where servers of a test keep sessions, and their clock."""

    server: redis.Running
    executor: Executor
    now: float = 1_000_000.0

    @property
    def client(self) -> library.Redis:
        return self.server.client

    @asynccontextmanager
    async def opened(
        self, *, images: bool = False, observer: Observer | None = None, **place: object
    ) -> AsyncIterator[KeptSessions]:
        clock = lambda: self.now  # noqa: E731
        live = MemorySessions(8, 1 << 26, IDLE, clock, lifetime_s=LIFETIME, parks=True)
        where, times = self.server.place(**place), {"lifetime_s": LIFETIME, "clock": clock}
        async with redis.kept(
            where, live, self.executor, images=images, manifest=MODEL, observer=observer, **times
        ) as store:
            yield store


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Running]:
    with redis.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as made:
        yield made


@pytest.fixture
def place(running: redis.Running, executor: Executor) -> Place:
    running.client.flushall()
    return Place(running, executor)


async def rounds_of(store: SessionStore, session_id: str = "s") -> int:
    async with store.exclusive(session_id, CALLER) as held:
        return len(held.rounds)


async def asked(store: SessionStore, number: int = 1, session_id: str = "s") -> None:
    async with store.exclusive(session_id, CALLER) as held:
        await append(store, held, [answered(number)])


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
        await one.close("s", CALLER)
        with pytest.raises(PreconditionFailed) as closed:
            await two.read("s", CALLER)
        assert closed.value.reason is Reason.SESSION_CLOSED
        assert two.count == 0


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


# ---- a Redis that fails


async def test_a_full_redis_refuses_and_keeps_nothing_by_half(place: Place) -> None:
    big = [replace(finished_round(MODEL, n), used=None, reference=None) for n in range(8)]
    big = [replace(r, segmentation=replace(r.segmentation, mask=mask(n, 256))) for n, r in enumerate(big)]
    async with place.opened(images=True) as store:
        await store.create(new("s", 256))
        await store.create(new("t", 256))
        used = int(place.client.info("memory")["used_memory"])
        place.client.config_set("maxmemory", used // 2)
        try:
            async with store.exclusive("s", CALLER) as held:
                with pytest.raises(Exhausted) as full:
                    await append(store, held, big)
                assert full.value.retry_after > 0
            assert await rounds_of(store) == 0
            with pytest.raises(Exhausted):
                await store.create(new("u"))
            await store.close("t", CALLER)  # is how room is made
        finally:
            place.client.config_set("maxmemory", 0)
        async with store.exclusive("s", CALLER) as held:
            await append(store, held, big)
    async with place.opened() as store:
        assert len((await store.read("s", CALLER)).record.rounds) == 8


async def test_a_redis_that_became_a_replica(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async with place.opened(images=True) as store:
        await store.create(new())
        await asked(store)
        place.client.replicaof("127.0.0.1", "1")
        try:
            with pytest.raises(Unavailable) as refused:
                await asked(store, 2)
            assert refused.value.retry_after > 0
            with pytest.raises(Unavailable):
                await store.close("s", CALLER)
            assert await rounds_of(store) == 1
            with pytest.raises(UnusableRedis, match="must be the primary"):
                async with place.opened():
                    pass
        finally:
            place.client.replicaof("NO", "ONE")
        await asked(store, 2)
        assert await rounds_of(store) == 2
    assert WORDS not in caplog.text


async def test_a_redis_that_stalls_holds_nobody_elses_rounds(place: Place) -> None:
    async with place.opened(images=True, patience_s=0.2) as store:
        await store.create(new())
        await store.create(new("not kept", keep=False))
        place.server.process.send_signal(signal.SIGSTOP)
        try:
            async with store.exclusive("not kept", CALLER) as held:
                await append(store, held, [answered(1)])
            with pytest.raises(Unavailable) as refused:
                await asked(store)
            assert refused.value.retry_after > 0
            connection = store._records._connection
            job = lambda client: pytest.fail("it is not asked for a while")  # noqa: E731
            with pytest.raises(Unavailable):
                await connection.read(job)
            await store.create(new("another", keep=False))
        finally:
            place.server.process.send_signal(signal.SIGCONT)
        connection._silent_until = 0.0
        await asked(store)
        assert await rounds_of(store) == 1


@pytest.mark.parametrize("key", [bytes(32), None])
@pytest.mark.parametrize("field", ["header", "r1", "m", "q", "missing round", "swapped rounds"])
async def test_damaged_bodies_are_refused(place: Place, key: bytes | None, field: str) -> None:
    async with place.opened(key=key) as store:
        await store.create(new())
        await dialogue(store)
    [session] = place.client.scan_iter("mediround:session:*")
    found: dict[bytes, bytes] = place.client.hgetall(session)
    if field == "missing round":
        place.client.hdel(session, "r1")
    elif field == "swapped rounds":
        place.client.hset(session, "r1", found[b"r0"])
    else:
        name = next(name for name in sorted(found) if name.startswith(field.encode()))
        place.client.hset(session, name, bytes(len(found[name])))
    async with place.opened(key=key) as store:
        with pytest.raises(Unavailable):
            await store.read("s", CALLER)
        with pytest.raises(ServingError):
            await rounds_of(store)


async def test_what_cannot_be_served_is_refused_at_the_start(place: Place, tmp_path: Path) -> None:
    async with place.opened() as store:
        await store.create(new())

    def newer() -> None:
        place.client.hset("mediround:sessions", "schema", VERSION + 1)

    def foreign() -> None:
        place.client.flushdb()
        place.client.set("another", "program")

    cases: list[tuple[Callable[[], object], dict[str, Any], str]] = [
        (lambda: None, {"key": b"1" * 32}, "another key"),
        (lambda: None, {"key": None}, "another key"),
        (lambda: None, {"durability": "power"}, "appendfsync always"),
        (newer, {}, f"has schema {VERSION + 1}, this server reads {VERSION}"),
        (foreign, {}, "another program's"),
    ]
    for prepare, options, words in cases:
        prepare()
        with pytest.raises(UnusableRedis, match=words):
            async with place.opened(**options):
                pass
    nobody = replace(place.server, url=f"unix://{tmp_path}/none.sock")
    with pytest.raises(UnusableRedis, match="No such file"):
        async with Place(nobody, place.executor).opened():
            pass


class Heard(NullObserver):
    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def stored(self, operation: str, outcome: StoreOutcome, seconds: float) -> None:
        assert seconds > 0
        self.outcomes[operation, outcome] += 1


async def test_what_it_holds_and_how_it_fails_is_told(place: Place) -> None:
    heard = Heard()
    async with place.opened(images=True, observer=heard) as store:
        for name in ("s", "t"):
            await store.create(new(name))
        store.sweep()
        await store._purging
        assert (store.stats.kept_open, store.stats.parked) == (2, 0)
        assert store.stats.store_bytes == int(place.client.hget("mediround:sessions", "bytes")) > 0
        place.now += IDLE
        store.sweep()
        assert (store.stats.kept_open, store.stats.parked) == (0, 2)
        await store._purging
        place.client.config_set("maxmemory", 1)
        with pytest.raises(Exhausted):
            await asked(store)
        place.client.config_set("maxmemory", 0)
        place.client.replicaof("127.0.0.1", "1")
        with pytest.raises(Unavailable):
            await asked(store)
        place.client.replicaof("NO", "ONE")
    assert heard.outcomes["write", "ok"] > 3 < heard.outcomes["read", "ok"]
    assert (heard.outcomes["write", "full"], heard.outcomes["write", "unavailable"]) == (1, 1)


async def test_it_warns_of_what_may_lose_sessions(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        async with place.opened():
            pass
    finally:
        place.client.config_set("maxmemory-policy", "noeviction")
    assert "neither an append-only file nor a replica" in caplog.text
    assert "policy allkeys-lru" in caplog.text
    caplog.clear()
    place.client.config_set("appendonly", "yes")
    place.client.config_set("appendfsync", "always")
    try:
        async with place.opened(durability="power") as store:
            await store.create(new())
    finally:
        place.client.config_set("appendonly", "no")
    assert caplog.text == ""


async def test_a_password_and_tls(executor: Executor, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory, password = tmp_path_factory.mktemp("tls"), "secret"
    authority, port = Authority.make(directory / "ca"), free_port()
    certificate, key = authority.issue("/CN=redis", "IP:127.0.0.1")
    flags = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    flags += ["--tls-ca-cert-file", str(authority.certificate), "--tls-auth-clients", "no"]
    with redis.running(directory, *flags) as server:
        server.client.config_set("requirepass", password)
        address = RedisAddress(f"rediss://127.0.0.1:{port}/2", password=password, ca=authority.certificate)
        place = Place(server, executor)
        async with place.opened(address=address) as store:
            await store.create(new())
        for wrong in (
            replace(address, password=f"{password}s"),
            replace(address, password=None),
            replace(address, ca=None),
            replace(address, url=f"rediss://127.0.0.1:{free_port()}"),
        ):
            with pytest.raises(UnusableRedis) as refused:
                async with place.opened(address=wrong):
                    pass
            assert password not in str(refused.value)
            assert "\n" not in str(refused.value)


async def test_kill_9_of_a_redis_with_an_append_only_file_loses_nothing(
    executor: Executor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("aof")
    with redis.running(directory, "--appendonly", "yes") as server:
        place = Place(server, executor)
        async with place.opened(images=True) as store:
            await store.create(new())
            await asked(store)
            server.process.kill()
            server.process.wait()
            with pytest.raises(Unavailable):
                await asked(store, 2)
            with redis.running(directory, "--appendonly", "yes"):
                assert await rounds_of(store) == 1
                await asked(store, 2)
                assert await rounds_of(store) == 2
