"""Kept sessions in a file: parked, taken up again, after a restart, by two servers, and when the file fails."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from serving.errors import Exhausted, NotFound, PreconditionFailed, Reason, ServingError, Unavailable
from serving.history import changes
from serving.sessions.keeper import SessionKeeper
from serving.stores.kept.records import VERSION, StoreLimits
from serving.stores.kept.seal import read_key
from serving.stores.kept.sessions import KeptSessions
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.database import Database
from serving.stores.sqlite.records import SqliteRecords
from serving.stores.sqlite.schema import UnusableFile
from serving.stores.sqlite.sessions import SessionFile
from tests.scripted.pictures import append, finished_round, mask
from tests.scripted.sessions import file_sessions
from tests.unit.serving.kept import CALLER, GEOMETRY, KEY, MODEL, WORDS, answered, dialogue, image, new, plain

IDLE, LIFETIME = 60.0, 3600.0


@dataclass
class Place:
    """Where servers of a test keep sessions, and their clock."""

    file: SessionFile
    executor: Executor
    now: float = 1_000_000.0

    @asynccontextmanager
    async def server(self, *, images: bool = False, **file: object) -> AsyncIterator[KeptSessions]:
        clock = lambda: self.now  # noqa: E731
        live = MemorySessions(8, 1 << 26, IDLE, clock, lifetime_s=LIFETIME, parks=True)
        where = replace(self.file, **file)
        async with file_sessions(
            where, live, self.executor, lifetime_s=LIFETIME, images=images, clock=clock, manifest=MODEL
        ) as store:
            yield store

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.file.path, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ThreadPoolExecutor(2) as executor:
        yield Place(SessionFile(tmp_path / "sessions.db", key=bytes(32)), executor)


# ---- what is kept


async def test_a_session_is_the_same_after_a_restart(place: Place) -> None:
    async with place.server(images=True) as first:
        await first.create(new())
        before = await dialogue(first)
    async with place.server(images=True) as second:
        snapshot = await second.read("s", CALLER)
        assert snapshot.parked
        assert [each.parked for each in await second.page(CALLER, None, 5)] == [True]
        async with second.exclusive("s", CALLER) as held:
            assert plain(held.record) == plain(before)
            assert plain(held.image) == plain(image())
            shorter = changes.with_first_rounds(held.record, 2, None)
            await second.commit(shorter)
        assert not (await second.read("s", CALLER)).parked
    async with place.server(images=True) as third, third.exclusive("s", CALLER) as held:
        assert plain(held.record) == plain(shorter)
        results = changes.earlier_request(held.record, KEY).results
        assert results[2].round.seeded, "also of undone rounds"
        assert [each.near_zero and each.near_zero.digest for each in results[:2]] == [mask(11).digest, None]
        assert mask(11).digest not in changes.held_masks(held.record), "it is no mask of the session's"


async def test_a_session_without_its_image_needs_it_again(place: Place) -> None:
    async with place.server() as first:
        await first.create(new())
        before = await dialogue(first)
    async with place.server() as second:
        with pytest.raises(PreconditionFailed) as refused:
            async with second.exclusive("s", CALLER):
                pass
        assert refused.value.reason is Reason.NEEDS_IMAGE
        assert len((await second.read("s", CALLER)).record.rounds) == 4
        await second.resume("s", CALLER, image())
        async with second.exclusive("s", CALLER) as held:
            assert plain(held.record) == plain(before)
    assert place.sql("SELECT count(image) FROM sessions") == [(0,)]


async def test_what_is_idle_is_parked_and_what_is_not_kept_ends(place: Place) -> None:
    async with place.server(images=True) as store:
        await store.create(new("kept"))
        await store.create(new("not", keep=False))
        assert store.seconds_left("kept", CALLER) == LIFETIME
        place.now += IDLE
        store.sweep()
        assert store.count == 0
        assert store.seconds_left("kept", CALLER) == LIFETIME - IDLE
        assert (await store.read("kept", CALLER)).parked
        with pytest.raises(NotFound):
            await store.read("not", CALLER)
        async with store.exclusive("kept", CALLER) as held:
            await append(store, held, [answered(1)])
        assert store.count == 1
    assert len(place.sql("SELECT 1 FROM sessions")) == 1


async def test_what_is_too_old_is_deleted_and_its_owner_told(place: Place) -> None:
    async with place.server() as store:
        await store.create(new())
        await dialogue(store)
    place.now += LIFETIME
    for _ in range(2):
        async with place.server() as store:
            with pytest.raises(NotFound) as gone:
                await store.read("s", CALLER)
            assert gone.value.reason is Reason.SESSION_EXPIRED
            with pytest.raises(PreconditionFailed):
                await store.create(new())
    tables = ("sessions", "rounds", "masks", "requests")
    assert [place.sql(f"SELECT count(*) FROM {table}") for table in tables] == [[(0,)]] * 4  # noqa: S608


async def test_a_closed_session_is_closed_after_a_restart(place: Place) -> None:
    async with place.server() as store:
        await store.create(new())
        await store.close("s", CALLER)
    async with place.server() as store:
        await store.close("s", CALLER)
        with pytest.raises(PreconditionFailed) as closed:
            await store.read("s", CALLER)
        assert closed.value.reason is Reason.SESSION_CLOSED
        with pytest.raises(NotFound):
            await store.close("s", "another")


@pytest.mark.parametrize("key", [bytes(32), None])
async def test_who_reads_the_file_learns_no_caller_and_with_a_key_no_word(place: Place, key: bytes | None) -> None:
    async with place.server(key=key) as store:
        await store.create(new("kept-session-id"))
        await dialogue(store, "kept-session-id")
        beside = [place.file.path.with_name(place.file.path.name + end) for end in ("", "-wal", "-shm")]
        raw = b"".join(path.read_bytes() for path in beside)
        assert [stat.S_IMODE(path.stat().st_mode) for path in beside] == [0o600] * 3
    assert b"Anna" not in raw
    assert (WORDS.encode() in raw, b"kept-session-id" in raw) == (key is None, key is None)


async def test_a_session_that_is_parked_in_the_midst_of_a_call(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.server() as store:
        await store.create(new())
        for name in ("version", "end"):
            original = getattr(SqliteRecords, name)

            async def late(self: SqliteRecords, *args: object, original: Any = original) -> Any:
                done = await original(self, *args)
                place.now += IDLE
                store.sweep()
                return done

            monkeypatch.setattr(SqliteRecords, name, late)
        assert (await store.read("s", CALLER)).parked
        await store.resume("s", CALLER, image())
        await store.close("s", CALLER)
        with pytest.raises(PreconditionFailed) as closed:
            await store.read("s", CALLER)
        assert closed.value.reason is Reason.SESSION_CLOSED


async def test_a_backup_that_is_made_while_it_is_served_holds_all(place: Place, tmp_path: Path) -> None:
    async with place.server(images=True) as store:
        await store.create(new())
        before = await dialogue(store)
        with (
            closing(sqlite3.connect(place.file.path)) as source,
            closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
        ):
            source.backup(copy)
    async with place.server(path=tmp_path / "copy.db") as restored, restored.exclusive("s", CALLER) as held:
        assert plain(held.record) == plain(before)


# ---- two servers


async def test_another_servers_change_is_seen_and_never_written_over(place: Place) -> None:
    async with place.server(images=True) as one, place.server(images=True) as two:
        await one.create(new())
        async with two.exclusive("s", CALLER) as theirs:
            async with one.exclusive("s", CALLER) as ours:
                await append(one, ours, [answered(1)])
            with pytest.raises(Unavailable, match="another server"):
                await append(two, theirs, [answered(2)])
        for store in (one, two):
            async with store.exclusive("s", CALLER) as held:
                assert [each.round_id for each in held.rounds] == ["r1"]
        assert len((await two.read("s", CALLER)).record.rounds) == 1
        await one.close("s", CALLER)
        with pytest.raises(PreconditionFailed) as closed:
            await two.read("s", CALLER)
        assert closed.value.reason is Reason.SESSION_CLOSED
        assert two.count == 0


async def test_a_server_of_another_model_reads_and_changes_nothing(place: Place) -> None:
    async with place.server(images=True) as store:
        await store.create(new())
        before = await dialogue(store)
        other = SessionKeeper(store, GEOMETRY, place.executor, "another model's")
        assert len((await other.read("s", CALLER)).record.rounds) == 4
        with pytest.raises(PreconditionFailed) as refused:
            await other.rewind("s", CALLER, 0, None, None)
        assert refused.value.reason is Reason.OTHER_MODEL
        async with store.exclusive("s", CALLER) as held:
            assert held.record.version == before.version


# ---- a file that fails


async def rounds_of(store: KeptSessions, session_id: str = "s") -> int:
    async with store.exclusive(session_id, CALLER) as held:
        return len(held.rounds)


async def test_a_full_file_refuses_and_keeps_nothing_by_half(place: Place) -> None:
    noise = [replace(finished_round(MODEL, n), used=None, reference=None) for n in range(30)]
    masks = [mask(n, 256) for n in range(30)]
    big = [replace(r, segmentation=replace(r.segmentation, mask=m)) for r, m in zip(noise, masks, strict=True)]
    async with place.server(limits=StoreLimits(max_bytes=256 << 10)) as store:
        await store.create(new("s", 256))
        await store.create(new("t", 256))
        async with store.exclusive("t", CALLER) as held:
            await append(store, held, big[:8])
        nbytes = store.nbytes
        async with store.exclusive("s", CALLER) as held:
            with pytest.raises(Exhausted) as full:
                await append(store, held, big)
            assert full.value.retry_after > 0
            assert store.nbytes == nbytes
        assert await rounds_of(store) == 0
        await store.close("t", CALLER)
        async with store.exclusive("s", CALLER) as held:
            await append(store, held, big[:8])
    async with place.server() as store:
        assert len((await store.read("s", CALLER)).record.rounds) == 8


async def test_one_caller_does_not_fill_the_file(place: Place) -> None:
    async with place.server(limits=StoreLimits(max_per_caller=2)) as store:
        for name in ("one", "two"):
            await store.create(new(name))
        place.now += IDLE  # parked ones count
        with pytest.raises(Exhausted, match="of one caller"):
            await store.create(new("three"))
        await store.create(new("not kept", keep=False))
        for other in ({"caller": "another"}, {"account": "of another connection"}):
            made = new("other")
            await store.create(replace(made, record=replace(made.record, **other)))
        await store.close("one", CALLER)
        await store.create(new("three"))


@pytest.mark.parametrize("limit", ["max_bytes_per_caller", "max_sessions"])
async def test_what_a_caller_and_all_may_keep_is_limited(place: Place, limit: str) -> None:
    most = {"max_bytes_per_caller": 60_000, "max_sessions": 1}[limit]
    async with place.server(images=True, limits=StoreLimits(**{limit: most})) as store:
        await store.create(new())
        with pytest.raises(Exhausted) as full:
            await store.create(new("t"))
            for number in range(1, 100):
                async with store.exclusive("s", CALLER) as held:
                    await append(store, held, [answered(number)])
        assert full.value.retry_after > 0
        before = await rounds_of(store)
        async with store.exclusive("s", CALLER) as held:  # an undo is never refused
            await store.commit(changes.with_first_rounds(held.record, before // 2, None))
    async with place.server() as store:
        assert len((await store.read("s", CALLER)).record.rounds) == before // 2
        assert (before > 3) == (limit == "max_bytes_per_caller")


@pytest.mark.parametrize("broken", ["PRAGMA query_only = ON", "locked"])
async def test_a_file_that_cannot_be_written(place: Place, broken: str, caplog: pytest.LogCaptureFixture) -> None:
    async with place.server() as store:
        await store.create(new())
        connection = store._records._database._connection
        if broken.startswith("PRAGMA"):
            connection.execute(broken)
        else:
            connection.execute("PRAGMA busy_timeout = 20")
            other = sqlite3.connect(place.file.path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
        async with store.exclusive("s", CALLER) as held:
            with pytest.raises(Unavailable) as refused:
                await append(store, held, [answered(1)])
            assert refused.value.retry_after > 0
        with pytest.raises(Unavailable):
            await store.close("s", CALLER)
        with pytest.raises(Unavailable):
            await store.create(new("t"))
        assert await rounds_of(store) == 0
        await store.create(new("not kept", keep=False))
        if broken.startswith("PRAGMA"):
            connection.execute("PRAGMA query_only = OFF")
        else:
            other.close()
        async with store.exclusive("s", CALLER) as held:
            await append(store, held, [answered(1)])
        assert await rounds_of(store) == 1
    assert WORDS not in caplog.text


@pytest.mark.parametrize("key", [bytes(32), None])
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE rounds SET body = zeroblob(length(body)) WHERE number = 1",
        "UPDATE masks SET body = x''",
        "UPDATE rounds SET body = (SELECT body FROM rounds WHERE number = 0) WHERE number = 1",
        "DELETE FROM rounds WHERE number = 1",
        "DELETE FROM masks",
        "UPDATE sessions SET header = x'00'",
    ],
)
async def test_damaged_rows_are_refused(place: Place, key: bytes | None, damage: str) -> None:
    async with place.server(key=key) as store:
        await store.create(new())
        await dialogue(store)
    place.sql(damage)
    async with place.server(key=key) as store:
        with pytest.raises(Unavailable):
            await store.read("s", CALLER)
        with pytest.raises(ServingError):
            await rounds_of(store)


async def test_files_that_cannot_be_served(place: Place, tmp_path: Path) -> None:
    async with place.server() as store:
        await store.create(new())
    place.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = place.file.path.read_bytes()

    def later(path: Path) -> None:
        path.write_bytes(whole)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {VERSION + 1}")

    def foreign(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE t (a)")

    cases: dict[str, tuple[Callable[[Path], object], bytes | None, str]] = {
        "newer": (later, bytes(32), f"has schema {VERSION + 1}, this server reads {VERSION}"),
        "foreign": (foreign, bytes(32), "another program's"),
        "no database": (lambda path: path.write_bytes(b"x" * 4096), bytes(32), "SQLITE_NOTADB"),
        "cut": (lambda path: path.write_bytes(whole[:5000]), bytes(32), "SQLITE_CORRUPT"),
        "another key": (lambda path: path.write_bytes(whole), b"1" * 32, "another key"),
        "no key": (lambda path: path.write_bytes(whole), None, "another key"),
    }
    for name, (write, key, words) in cases.items():
        path = tmp_path / f"{name}.db"
        write(path)
        with pytest.raises(UnusableFile, match=words):
            async with place.server(path=path, key=key):
                pass
    with pytest.raises(OSError, match="directory"):
        async with place.server(path=tmp_path / "none" / "s.db"):
            pass


async def test_a_cancelled_change_is_there_or_not_and_everybody_sees_which(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop, done = asyncio.get_running_loop(), Database._done

    def slow(self: Database, job: object, *, reads: bool) -> object:
        if not reads:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        return done(self, job, reads=reads)

    async with place.server() as store:
        await store.create(new())
        monkeypatch.setattr(Database, "_done", slow)

        async def ask() -> None:
            async with store.exclusive("s", CALLER) as held:
                await append(store, held, [answered(1)])

        asked = asyncio.create_task(ask())
        await begun.wait()
        asked.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await asked
        monkeypatch.undo()
        assert len((await store.read("s", CALLER)).record.rounds) == 1
        assert await rounds_of(store) == 1


def test_keys_are_64_hexadecimal_digits(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("0f" * 32 + "\n")
    assert read_key(path) == b"\x0f" * 32
    for wrong in ("", "0f" * 31, "0g" * 32, "0f" * 33):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            read_key(path)
