"""Values put in order, grouped, joined, and known again: on disk, so that memory does not grow with them.

Knows SQLite, in a temporary file. Does not know what values are.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path

from mediround.annotate.errors import NotNow

IN_MEMORY = 10_000
"""Values that ``in_order`` sorts without a file."""
_ROOM = "set TMPDIR to a disk with room"
_DIGEST_BYTES = 16
_CACHE_KIB = 16 << 10
"""Of SQLite, for each of these files."""
_GIVEN = """
CREATE TABLE given (number INTEGER PRIMARY KEY, key TEXT NOT NULL, urgent INTEGER NOT NULL, value TEXT NOT NULL);
"""
_GROUPS = """
CREATE TABLE groups AS SELECT key, MIN(number) AS first, MAX(urgent) AS urgent FROM given GROUP BY key;
CREATE UNIQUE INDEX of_key ON groups (key);
"""
_SORTED = """
SELECT given.key, given.value FROM given CROSS JOIN groups ON groups.key = given.key
ORDER BY groups.urgent DESC, groups.first, given.number
"""
_ENTRIES = "CREATE TABLE entries (name BLOB PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
_NAMES = "CREATE TABLE names (name BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"

_LISTS = """
CREATE TABLE lists (name BLOB NOT NULL, rank BLOB NOT NULL, value TEXT NOT NULL);
CREATE INDEX by_name ON lists (name, rank);
"""


def grouped(values: Iterable[tuple[str, bool, str]]) -> Iterator[tuple[str, str]]:
    """Key and value of each, from key, urgency and value.

    Groups come in the order in which their first value came, urgent ones before all others, values in the order in
    which they came. Raises what ``values`` raises, and NotNow: the disk is full.
    """
    with scratch(_GIVEN) as database:
        database.executemany("INSERT INTO given (key, urgent, value) VALUES (?, ?, ?)", values)
        for statement in _GROUPS.split(";")[:-1]:  # executescript would end the transaction
            database.execute(statement)
        yield from database.execute(_SORTED)


def in_order(values: Iterable[tuple[bytes, str]]) -> Iterator[tuple[bytes, str]]:
    """Names and values, by their names, which differ. Before the first it raises what ``values`` raises, and
    NotNow: the disk is full.
    """
    left = iter(values)
    first = list(islice(left, IN_MEMORY))
    if len(first) < IN_MEMORY:
        yield from sorted(first)
        return
    with scratch(_ENTRIES) as database:
        database.executemany("INSERT INTO entries VALUES (?, ?)", chain(first, left))
        yield from database.execute("SELECT name, value FROM entries ORDER BY name")


class Names:
    """Names of any length that were met, by their digests. Made by ``names``."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __contains__(self, name: str) -> bool:
        return self._value(_digest(name)) is not None

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT COUNT(*) FROM names").fetchone()
        return int(count)

    def add(self, name: str, value: str = "") -> bool | None:
        """None: the name is new. Else whether it came with this value at its first time."""
        key, digest = _digest(name), _digest(value)
        if self._database.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (key, digest)).rowcount:
            return None
        return self._value(key) == digest

    def _value(self, key: bytes) -> bytes | None:
        row = self._database.execute("SELECT value FROM names WHERE name = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])


class Lists:
    """Values by names, in the order of their ranks. Made by ``lists``."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add(self, name: str, value: str, rank: bytes) -> None:
        self._database.execute("INSERT INTO lists VALUES (?, ?, ?)", (_digest(name), rank, value))

    def of(self, names: tuple[str, str], most: int) -> list[str]:
        """Values of either name, each once: those of the highest ranks, the highest first."""
        query = "SELECT DISTINCT value, rank FROM lists WHERE name IN (?, ?) ORDER BY rank DESC LIMIT ?"
        found = self._database.execute(query, (*map(_digest, names), most))
        return [str(value) for value, _ in found]


@contextmanager
def lists() -> Iterator[Lists]:
    """None yet; they are forgotten when the block ends. Raises NotNow: the disk is full."""
    with scratch(_LISTS) as database:
        yield Lists(database)


@contextmanager
def names() -> Iterator[Names]:
    """None yet; they are forgotten when the block ends. Raises NotNow: the disk is full."""
    with scratch(_NAMES) as database:
        yield Names(database)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is removed when the block ends, also in a generator that is never read to its end.
    Raises NotNow: it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="mediround-"))
    except OSError as error:  # "no usable folder" is also what one that is full is called
        raise NotNow(f"nothing can be kept for a while ({error.strerror}): {_ROOM}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def scratch(schema: str) -> Iterator[sqlite3.Connection]:
    """A database that is gone when the block ends. Raises NotNow: the folder for temporary files is full."""
    with _with_room(), scratch_folder() as folder:
        database = sqlite3.connect(folder / "scratch.sqlite", isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA temp_store = FILE")
            database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            database.executescript(schema)
            database.execute("BEGIN")  # after the script, which commits: one transaction, which never ends
            yield database
        finally:
            database.close()


@contextmanager
def _with_room() -> Iterator[None]:
    """Around the use of a database for temporary values. Raises NotNow: it cannot be written."""
    try:
        yield
    except sqlite3.Error as error:
        raise NotNow(f"the scratch database cannot be written ({error}): {_ROOM}") from error


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
