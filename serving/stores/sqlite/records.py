"""What the file does for sessions: put, change, read, list, end. Each is one transaction.

Knows rows. Does not know what is held in memory, or when a session ends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from functools import partial

from serving.errors import NotFound, Unavailable
from serving.history.record import SessionRecord
from serving.stores.endings import CLOSED, OLD, UNKNOWN, ended, used
from serving.stores.kept.codec import StoredImage
from serving.stores.kept.parts import Change, Parts
from serving.stores.kept.records import (
    CALLERS_FULL,
    CALLERS_MANY,
    CHANGED,
    MANY,
    Held,
    Listed,
    Stored,
    StoreLimits,
    age,
    exhausted,
)
from serving.stores.kept.seal import Damaged
from serving.stores.sqlite.database import Database


class SqliteRecords:
    """The Records of one file."""

    def __init__(self, database: Database, parts: Parts, limits: StoreLimits) -> None:
        self._database, self._parts, self._limits = database, parts, limits

    async def check_unused(self, session_id: str, caller: str) -> None:
        """See ``Records``."""
        await self._database.read(partial(_check_unused, key=self._parts.key(session_id, caller)))

    async def put(self, record: SessionRecord, opened: float, image: StoredImage | None) -> None:
        """See ``Records``."""
        parts, key = self._parts, self._parts.key(record.session_id, record.caller)
        owner, account, count = parts.owner(record.caller), parts.account(record), len(record.rounds)

        def write(connection: sqlite3.Connection) -> None:
            _check_unused(connection, key)
            self._check_count(connection, account)
            kept = None if image is None else parts.image(key, image)
            header, change = parts.header(key, record), parts.all_of(key, record)
            row = (key, owner, account, opened, record.opened_at, record.version, count, 0, header, kept)
            connection.execute(f"INSERT INTO sessions VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608  # marks
            _write_parts(connection, key, change)
            self._count_bytes(connection, key, account)

        await self._database.write(write)

    async def change(self, old: SessionRecord, new: SessionRecord) -> None:
        """See ``Records``."""
        key, account = self._parts.key(new.session_id, new.caller), self._parts.account(new)
        row = (new.version, len(new.rounds), key, old.version)

        def write(connection: sqlite3.Connection) -> None:
            done = connection.execute(
                "UPDATE sessions SET version = ?, rounds = ? WHERE session = ? AND version = ?", row
            )
            if not done.rowcount:
                _version(connection, key)
                raise Unavailable(CHANGED, 0.1)
            _write_parts(connection, key, self._parts.between(key, old, new))
            self._count_bytes(connection, key, account)

        await self._database.write(write)

    async def version(self, session_id: str, caller: str) -> int:
        """See ``Records``."""
        return await self._database.read(partial(_version, key=self._parts.key(session_id, caller)))

    async def get(self, session_id: str, caller: str, *, image: bool) -> Stored:
        """See ``Records``."""
        key = self._parts.key(session_id, caller)

        def read(connection: sqlite3.Connection) -> Stored:
            version = _version(connection, key)
            row = "SELECT opened, header, image FROM sessions WHERE session = ?"
            [(opened, header, kept)] = connection.execute(row, (key,))
            record = self._parts.header_of(key, header, caller, version)
            pixels = self._parts.image_of(key, kept) if image and kept is not None else None
            return Stored(self._with_parts(connection, key, record), opened, pixels)

        return await self._database.read(read)

    async def page(self, caller: str, after: tuple[float, str] | None, count: int) -> list[Listed]:
        """See ``Records``."""
        rows = (
            "SELECT session, opened, version, rounds, header FROM sessions WHERE owner = ? AND opened_at <= ? "
            "ORDER BY opened_at DESC"
        )
        owner, until = self._parts.owner(caller), float("inf") if after is None else after[0]

        def read(connection: sqlite3.Connection) -> list[Listed]:
            page: list[Listed] = []
            for key, opened, version, rounds, header in connection.execute(rows, (owner, until)):
                record = self._parts.header_of(key, header, caller, version)
                if len(page) >= count and record.opened_at < page[-1].record.opened_at:
                    break  # those of one moment are in no order yet
                if after is None or age(record) < after:
                    page.append(Listed(record, rounds, opened))
            return sorted(page, key=lambda each: age(each.record), reverse=True)[:count]

        return await self._database.read(read)

    async def remove(self, session_id: str, caller: str) -> None:
        """See ``Records``."""
        await self._database.write(partial(_delete, keys=[self._parts.key(session_id, caller)]))

    async def end(self, session_id: str, caller: str, now: float) -> None:
        """See ``Records``."""
        key = self._parts.key(session_id, caller)

        def write(connection: sqlite3.Connection) -> None:
            if _ended(connection, key) != CLOSED:
                _version(connection, key)
                _delete(connection, [key])
                connection.execute("INSERT INTO ended VALUES (?, 1, ?)", (key, now))

        await self._database.write(write)

    async def purge(self, opened_before: float, now: float) -> None:
        """See ``Records``."""

        def write(connection: sqlite3.Connection) -> None:
            rows = connection.execute("SELECT session FROM sessions WHERE opened <= ?", (opened_before,))
            keys = [key for (key,) in rows]
            connection.executemany("INSERT INTO ended VALUES (?, 0, ?)", [(key, now) for key in keys])
            _delete(connection, keys)
            connection.execute("DELETE FROM ended WHERE ended <= ?", (opened_before,))

        await self._database.write(write)

    async def held(self) -> Held:
        """See ``Records``: bytes of the file itself, without its log."""

        def read(connection: sqlite3.Connection) -> Held:
            [(sessions,)] = connection.execute("SELECT count(*) FROM sessions")
            sizes = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")]
            return Held(sessions, sizes[0] * sizes[1])

        return await self._database.read(read)

    async def close(self) -> None:
        """See ``Records``."""
        await self._database.close()

    def _check_count(self, connection: sqlite3.Connection, account: bytes) -> None:
        """Raises Exhausted where no further session may be kept."""
        limits = self._limits
        [(own,)] = connection.execute("SELECT count(*) FROM sessions WHERE account = ?", (account,))
        if own >= limits.max_per_caller:
            raise exhausted(CALLERS_MANY, own)
        [(count,)] = connection.execute("SELECT count(*) FROM sessions")
        if count >= limits.max_sessions:
            raise exhausted(MANY, count)

    def _count_bytes(self, connection: sqlite3.Connection, key: bytes, account: bytes) -> None:
        """What the session holds now. Raises Exhausted where its payer's are too many, and it has grown."""
        [(before,)] = connection.execute("SELECT bytes FROM sessions WHERE session = ?", (key,))
        [(nbytes,)] = connection.execute(_BYTES, {"session": key})
        connection.execute("UPDATE sessions SET bytes = ? WHERE session = ?", (nbytes, key))
        [(own,)] = connection.execute("SELECT sum(bytes) FROM sessions WHERE account = ?", (account,))
        if nbytes > before and own > self._limits.max_bytes_per_caller:
            raise exhausted(CALLERS_FULL, self._limits.max_bytes_per_caller)

    def _with_parts(self, connection: sqlite3.Connection, key: bytes, record: SessionRecord) -> SessionRecord:
        masks = dict(connection.execute("SELECT digest, body FROM masks WHERE session = ?", (key,)))
        rows = connection.execute("SELECT body FROM rounds WHERE session = ? ORDER BY number", (key,))
        rounds = [body for (body,) in rows]
        rows = connection.execute("SELECT id, body FROM requests WHERE session = ? ORDER BY place", (key,))
        [(count,)] = connection.execute("SELECT rounds FROM sessions WHERE session = ?", (key,))
        if len(rounds) != count:
            raise Damaged
        return self._parts.whole(key, record, masks, rounds, dict(rows))


_BYTES = """
SELECT length(header) + coalesce(length(image), 0)
    + (SELECT coalesce(sum(length(body)), 0) FROM rounds WHERE session = :session)
    + (SELECT coalesce(sum(length(body)), 0) FROM requests WHERE session = :session)
    + (SELECT coalesce(sum(length(body)), 0) FROM masks WHERE session = :session)
FROM sessions WHERE session = :session
"""


def _write_parts(connection: sqlite3.Connection, key: bytes, change: Change) -> None:
    """What is new, changed or gone; of requests the latest has the last place."""
    gone = ((key, each) for each in change.masks_gone)
    connection.executemany("DELETE FROM masks WHERE session = ? AND digest = ?", gone)
    connection.executemany("INSERT INTO masks VALUES (?, ?, ?)", _rows(key, change.masks.items()))
    first = change.rounds_gone.start
    connection.execute("DELETE FROM rounds WHERE session = ? AND number >= ?", (key, first))
    connection.executemany("INSERT OR REPLACE INTO rounds VALUES (?, ?, ?)", _rows(key, change.rounds.items()))
    gone = ((key, each) for each in change.requests_gone)
    connection.executemany("DELETE FROM requests WHERE session = ? AND id = ?", gone)
    put = "INSERT OR REPLACE INTO requests (session, id, body) VALUES (?, ?, ?)"
    connection.executemany(put, _rows(key, change.requests.items()))


def _rows(key: bytes, bodies: Iterable[tuple[bytes | int, bytes]]) -> Iterable[tuple[bytes, bytes | int, bytes]]:
    return ((key, name, body) for name, body in bodies)


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
