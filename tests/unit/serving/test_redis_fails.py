"""A real Redis that is full, read-only, stalled, damaged, another's, or gone: what happens to kept sessions."""

from __future__ import annotations

import logging
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.server_process import free_port
from serving.errors import Exhausted, ServingError, Unavailable
from serving.observer import NullObserver, StoreOutcome
from serving.stores.kept.records import VERSION
from serving.stores.redis.connection import RedisAddress
from serving.stores.redis.server import UnusableRedis
from tests.scripted import redis
from tests.scripted.pictures import append, finished_round, mask
from tests.service.certificates import Authority
from tests.unit.serving.in_redis import IDLE, LIFETIME, Place, asked, rounds_of
from tests.unit.serving.kept import CALLER, MODEL, WORDS, answered, dialogue, new


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
    async with place.opened(images=True, patience_s=1.0) as store:
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


async def test_a_change_whose_answer_was_not_heard_is_there_or_not(place: Place) -> None:
    async with place.opened(images=True, patience_s=1.0) as store:
        await store.create(new())
        async with store.exclusive("s", CALLER) as held:
            place.server.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(Unavailable, match="may have been carried out"):
                    await append(store, held, [answered(1)])
            finally:
                place.server.process.send_signal(signal.SIGCONT)
        store._records._connection._silent_until = 0.0
        place.client.ping()  # what was sent before is done
        found = await rounds_of(store)
        assert found in {0, 1}
        await asked(store, 2)
        assert await rounds_of(store) == found + 1
    async with place.opened() as store:
        assert len((await store.read("s", CALLER)).record.rounds) == found + 1


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


async def test_servers_of_one_redis_encode_alike(place: Place) -> None:
    key = "mediround:encoder"
    async with place.opened(encoder="onnx") as store:
        with pytest.raises(UnusableRedis, match="encode images by onnx, this one would by openvino-f32"):
            async with place.opened(encoder="openvino-f32"):
                pass
        async with place.opened(encoder="onnx"), place.opened():  # the same; and one that encodes elsewhere
            pass
        place.client.delete(key)
        store.sweep()
        await store._purging
        assert 0 < place.client.ttl(key) <= 90
    place.client.delete(key)  # it expires when the last has ended
    async with place.opened(encoder="openvino-f32"):
        assert place.client.get(key) == b"openvino-f32"


async def test_a_full_redis_serves_on_and_forgets_what_is_old(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    key = "mediround:encoder"
    async with place.opened(encoder="onnx") as store:
        await store.create(new())
        await asked(store)
        place.client.config_set("maxmemory", 1)
        try:
            place.client.expire(key, 5)
            store.sweep()
            await store._purging
            assert place.client.ttl(key) > 60, "it does not lapse"
            place.client.delete(key)
            async with place.opened(encoder="onnx") as another:  # one that starts meanwhile
                assert len((await another.read("s", CALLER)).record.rounds) == 1
            assert "is full (maxmemory)" in caplog.text
            place.now += LIFETIME
            store.sweep()
            await store._purging
            assert (store.stats.store_bytes, place.client.exists("mediround:opened")) == (0, 0)
            place.client.flushdb()
            with pytest.raises(UnusableRedis, match="it is full: its maxmemory must leave room"):
                async with place.opened():
                    pass
        finally:
            place.client.config_set("maxmemory", 0)


async def test_a_server_that_was_cut_off_hears_that_others_encode_otherwise(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    key = "mediround:encoder"
    async with place.opened(encoder="onnx") as store:
        place.client.delete(key)  # it lapsed
        async with place.opened(encoder="openvino-f32"):
            for _ in range(2):
                store.sweep()
                await store._purging
            assert caplog.text.count("encode images by openvino-f32, this one does by onnx") == 1
        place.client.delete(key)
        caplog.set_level(logging.INFO)
        store.sweep()
        await store._purging
        assert place.client.get(key) == b"onnx"
        assert "alike again, by onnx" in caplog.text


async def test_a_user_of_few_rights_is_enough(place: Place) -> None:
    rights = ["+@read", "+@write", "+@scripting", "+info", "+select", "+client|setname"]
    place.client.execute_command("ACL", "SETUSER", "mediround", "on", ">secret", "~mediround:*", "-@all", *rights)
    address = RedisAddress(place.server.url, "mediround", "secret")
    try:
        async with place.opened(images=True, address=address, encoder="onnx") as store:
            await store.create(new())
            await dialogue(store)
            assert len(await store.page(CALLER, None, 5)) == 1
            store.sweep()
            await store._purging
            assert store.stats.store_bytes
            await store.close("s", CALLER)
        with pytest.raises(UnusableRedis, match="NoPermissionError"):
            async with place.opened(address=address, durability="power"):  # needs +config|get
                pass
    finally:
        place.client.execute_command("ACL", "DELUSER", "mediround")


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
