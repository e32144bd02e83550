"""What the file does for sessions: put, change, read, list, end. Each is one transaction.

Knows rows, and what of two records differs. Does not know what is held in memory, or when a session ends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from serving.domain import Mask
from serving.errors import Exhausted, NotFound, Shed, Unavailable
from serving.history.record import RequestRecord, SessionRecord
from serving.stores.sessions import CLOSED, OLD, UNKNOWN, ended, used
from serving.stores.sqlite import codec
from serving.stores.sqlite.codec import StoredImage
from serving.stores.sqlite.database import RETRY_SECONDS, Database
from serving.stores.sqlite.seal import Damaged, Seal

MOST = "{} sessions are kept for you, the most that this server keeps of one caller; close some"
CHANGED = "another server has changed the session meanwhile: nothing of this request was kept; ask again"


@dataclass(frozen=True, slots=True)
class Stored:
    """A session as it lies in the file."""

    record: SessionRecord
    """Rounds without their references."""
    opened: float
    image: StoredImage | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A session in a list, of which only the number of rounds is known."""

    record: SessionRecord
    rounds: int
    opened: float


class Records:
    """The sessions of one file."""

    def __init__(self, database: Database, seal: Seal, max_per_caller: int) -> None:
        self._database, self._seal, self._max_per_caller = database, seal, max_per_caller

    async def check_unused(self, session_id: str, caller: str) -> None:
        """Raises PreconditionFailed where the caller had a session of this id."""
        await self._database.read(partial(_check_unused, key=self._key(session_id, caller)))

    async def put(self, record: SessionRecord, opened: float, image: StoredImage | None) -> None:
        """A new session. Raises as ``check_unused`` does, and Exhausted where the caller has too many."""
        key, owner = self._key(record.session_id, record.caller), self._owner(record.caller)
        kept = None if image is None else self._seal.closed(codec.image_bytes(image), "image", key)
        header = self._seal.closed(codec.header_bytes(record), "header", key)
        count = len(record.rounds)
        row = (key, owner, opened, record.opened_at, record.version, count, header, kept)

        def write(connection: sqlite3.Connection) -> None:
            _check_unused(connection, key)
            [(own,)] = connection.execute("SELECT count(*) FROM sessions WHERE owner = ?", (owner,))
            if own >= self._max_per_caller:
                raise Exhausted(MOST.format(own), RETRY_SECONDS, Shed.SESSIONS)
            connection.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            empty = SessionRecord(record.session_id, record.caller, record.size)
            self._write_parts(connection, key, empty, record)

        await self._database.write(write)

    async def change(self, old: SessionRecord, new: SessionRecord) -> None:
        """The new record in the old one's place; what is the same object in both is not written again.

        Raises:
            Unavailable: another server has changed it.
            NotFound, PreconditionFailed: it is not there any more.
        """
        key = self._key(new.session_id, new.caller)
        row = (new.version, len(new.rounds), key, old.version)

        def write(connection: sqlite3.Connection) -> None:
            done = connection.execute(
                "UPDATE sessions SET version = ?, rounds = ? WHERE session = ? AND version = ?", row
            )
            if not done.rowcount:
                _version(connection, key)
                raise Unavailable(CHANGED, 0.1)
            self._write_parts(connection, key, old, new)

        await self._database.write(write)

    async def version(self, session_id: str, caller: str) -> int:
        """Raises NotFound and PreconditionFailed as a ``SessionStore`` does."""
        return await self._database.read(partial(_version, key=self._key(session_id, caller)))

    async def get(self, session_id: str, caller: str, *, image: bool) -> Stored:
        """Raises as ``version`` does. ``image``: with it, where it is kept."""
        key = self._key(session_id, caller)

        def read(connection: sqlite3.Connection) -> Stored:
            version = _version(connection, key)
            row = "SELECT opened, header, image FROM sessions WHERE session = ?"
            [(opened, header, kept)] = connection.execute(row, (key,))
            record = codec.header_of(self._seal.opened(header, "header", key), caller, version)
            pixels = None
            if image and kept is not None:
                pixels = codec.image_of(self._seal.opened(kept, "image", key))
            return Stored(self._with_parts(connection, key, record), opened, pixels)

        return await self._database.read(read)

    async def page(self, caller: str, after: tuple[float, str] | None, count: int) -> list[Listed]:
        """At most ``count`` of the caller's, the latest opened first; see ``SessionStore.page``."""
        rows = (
            "SELECT session, opened, version, rounds, header FROM sessions WHERE owner = ? AND opened_at <= ? "
            "ORDER BY opened_at DESC"
        )
        until = float("inf") if after is None else after[0]

        def read(connection: sqlite3.Connection) -> list[Listed]:
            page: list[Listed] = []
            for key, opened, version, rounds, header in connection.execute(rows, (self._owner(caller), until)):
                record = codec.header_of(self._seal.opened(header, "header", key), caller, version)
                if len(page) >= count and record.opened_at < page[-1].record.opened_at:
                    break  # those of one moment are in no order yet
                if after is None or _age(record) < after:
                    page.append(Listed(record, rounds, opened))
            return sorted(page, key=lambda each: _age(each.record), reverse=True)[:count]

        return await self._database.read(read)

    async def remove(self, session_id: str, caller: str) -> None:
        """As if it had never been."""
        await self._database.write(partial(_delete, keys=[self._key(session_id, caller)]))

    async def end(self, session_id: str, caller: str, now: float) -> None:
        """End it for good. Idempotent. Raises NotFound."""
        key = self._key(session_id, caller)

        def write(connection: sqlite3.Connection) -> None:
            if _ended(connection, key) != CLOSED:
                _version(connection, key)
                _delete(connection, [key])
                connection.execute("INSERT INTO ended VALUES (?, 1, ?)", (key, now))

        await self._database.write(write)

    async def purge(self, opened_before: float, now: float) -> None:
        """Delete what was opened so long ago, and forget what ended so long ago."""

        def write(connection: sqlite3.Connection) -> None:
            rows = connection.execute("SELECT session FROM sessions WHERE opened <= ?", (opened_before,))
            keys = [key for (key,) in rows]
            connection.executemany("INSERT INTO ended VALUES (?, 0, ?)", [(key, now) for key in keys])
            _delete(connection, keys)
            connection.execute("DELETE FROM ended WHERE ended <= ?", (opened_before,))

        await self._database.write(write)

    def _key(self, session_id: str, caller: str) -> bytes:
        return self._seal.name("session", caller, session_id)

    def _owner(self, caller: str) -> bytes:
        return self._seal.name("owner", caller)

    def _write_parts(
        self, connection: sqlite3.Connection, key: bytes, old: SessionRecord, new: SessionRecord
    ) -> None:
        """What is new, changed or gone among masks, rounds and requests."""
        masks, before = _masks(new), _masks(old)
        connection.executemany(
            "DELETE FROM masks WHERE session = ? AND digest = ?", [(key, d) for d in before.keys() - masks]
        )
        added = [
            (key, d, self._seal.closed(codec.mask_bytes(masks[d]), "mask", key, d))
            for d in masks.keys() - before.keys()
        ]
        connection.executemany("INSERT INTO masks VALUES (?, ?, ?)", added)
        connection.execute("DELETE FROM rounds WHERE session = ? AND number >= ?", (key, len(new.rounds)))
        known = dict(enumerate(old.rounds))
        changed = [(n, each) for n, each in enumerate(new.rounds) if known.get(n) is not each]
        rows = [(key, n, self._seal.closed(codec.round_bytes(each), "round", key, str(n))) for n, each in changed]
        connection.executemany("INSERT OR REPLACE INTO rounds VALUES (?, ?, ?)", rows)
        self._write_requests(connection, key, old.requests, new.requests)

    def _write_requests(
        self,
        connection: sqlite3.Connection,
        key: bytes,
        old: Iterable[RequestRecord],
        new: Iterable[RequestRecord],
    ) -> None:
        """The latest has the last place."""
        before = {each.key.id: each for each in old}
        gone = [(key, self._id(name)) for name in before.keys() - {each.key.id for each in new}]
        connection.executemany("DELETE FROM requests WHERE session = ? AND id = ?", gone)
        for each in new:
            if before.get(each.key.id) is not each:
                name = self._id(each.key.id)
                row = (key, name, self._seal.closed(codec.request_bytes(each), "request", key, name))
                connection.execute("INSERT OR REPLACE INTO requests (session, id, body) VALUES (?, ?, ?)", row)

    def _with_parts(self, connection: sqlite3.Connection, key: bytes, record: SessionRecord) -> SessionRecord:
        masks = {
            digest: codec.mask_of(self._seal.opened(body, "mask", key, digest), digest)
            for digest, body in connection.execute("SELECT digest, body FROM masks WHERE session = ?", (key,))
        }
        rows = connection.execute("SELECT number, body FROM rounds WHERE session = ? ORDER BY number", (key,))
        rounds = [codec.round_of(self._seal.opened(body, "round", key, str(n)), masks) for n, body in rows]
        rows = connection.execute("SELECT id, body FROM requests WHERE session = ? ORDER BY place", (key,))
        requests = [codec.request_of(self._seal.opened(body, "request", key, name), masks) for name, body in rows]
        [(count,)] = connection.execute("SELECT rounds FROM sessions WHERE session = ?", (key,))
        if len(rounds) != count:
            raise Damaged
        return replace(record, rounds=tuple(rounds), requests=tuple(requests))

    def _id(self, request_id: str) -> bytes:
        return self._seal.name("request", request_id)


def _masks(record: SessionRecord) -> dict[bytes, Mask]:
    """By digest, all that it holds: of its rounds, and of those that requests are answered with again."""
    answered = (result.round for request in record.requests for result in request.results)
    return {mask.digest: mask for each in (*record.rounds, *answered) for mask in each.masks}


def _check_unused(connection: sqlite3.Connection, key: bytes) -> None:
    held = connection.execute("SELECT 1 FROM sessions WHERE session = ?", (key,)).fetchone()
    if held or _ended(connection, key):
        raise used()


def _version(connection: sqlite3.Connection, key: bytes) -> int:
    row = connection.execute("SELECT version FROM sessions WHERE session = ?", (key,)).fetchone()
    if row is not None:
        return int(row[0])
    if (words := _ended(connection, key)) is not None:
        raise ended(words)
    raise NotFound(UNKNOWN)


def _ended(connection: sqlite3.Connection, key: bytes) -> str | None:
    """In which words; None: it has not."""
    row = connection.execute("SELECT closed FROM ended WHERE session = ?", (key,)).fetchone()
    return row and (CLOSED if row[0] else OLD)


def _delete(connection: sqlite3.Connection, keys: Iterable[bytes]) -> None:
    """Sessions, with all that is theirs."""
    connection.executemany("DELETE FROM sessions WHERE session = ?", [(key,) for key in keys])


def _age(record: SessionRecord) -> tuple[float, str]:
    return record.opened_at, record.session_id
