"""The file: its tables, whose it is and of which version, and how it is opened.

Knows SQLite's settings. Does not know sessions, or what the bodies hold.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from serving.stores.kept.parts import Parts
from serving.stores.kept.records import VERSION

Durability = Literal["process", "power"]

_APPLICATION = 0x4D526453  # "MRdS"
_SYNCHRONOUS: dict[Durability, str] = {"process": "NORMAL", "power": "FULL"}
_BUSY_SECONDS = 5.0
_TABLES = """
CREATE TABLE seal (body BLOB NOT NULL) STRICT;
CREATE TABLE sessions (
    session BLOB PRIMARY KEY, owner BLOB NOT NULL, account BLOB NOT NULL, opened REAL NOT NULL,
    opened_at REAL NOT NULL, version INTEGER NOT NULL, rounds INTEGER NOT NULL, bytes INTEGER NOT NULL,
    header BLOB NOT NULL, image BLOB
) STRICT;
CREATE INDEX sessions_by_account ON sessions (account, bytes);
CREATE INDEX sessions_by_owner ON sessions (owner, opened_at);
CREATE INDEX sessions_by_age ON sessions (opened);
CREATE TABLE rounds (
    session BLOB NOT NULL REFERENCES sessions ON DELETE CASCADE, number INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (session, number)
) STRICT;
CREATE TABLE requests (
    place INTEGER PRIMARY KEY, session BLOB NOT NULL REFERENCES sessions ON DELETE CASCADE, id BLOB NOT NULL,
    body BLOB NOT NULL, UNIQUE (session, id)
) STRICT;
CREATE TABLE masks (
    session BLOB NOT NULL REFERENCES sessions ON DELETE CASCADE, digest BLOB NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (session, digest)
) STRICT;
CREATE TABLE ended (session BLOB PRIMARY KEY, closed INTEGER NOT NULL, ended REAL NOT NULL) STRICT;
CREATE INDEX ended_by_age ON ended (ended);
"""


class UnusableFile(ValueError):
    """The file cannot hold sessions of this server without a change; the message says which."""


def connect(path: Path, durability: Durability, max_bytes: int, parts: Parts) -> sqlite3.Connection:
    """Open the file, or make it, readable by its owner alone; transactions are begun by hand.

    Raises:
        UnusableFile: it is damaged, another program's, of a newer version, read-only, or of another key.
        OSError: it cannot be made.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    path.chmod(0o600)  # SQLite gives the files beside it the same
    connection = sqlite3.connect(path, _BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _set(connection, durability, max_bytes)
        with transaction(connection):
            _prepare(connection, parts)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise UnusableFile(f"--sessions.path cannot be used: {words(error)}") from error
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, *, reads: bool = False) -> Iterator[None]:
    """All of the block or nothing of it; one that writes waits for those of other processes."""
    connection.execute("BEGIN" if reads else "BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends some by itself
            connection.execute("ROLLBACK")
        raise


def words(error: sqlite3.Error) -> str:
    """SQLite's name of an error: its message might quote what is kept."""
    return getattr(error, "sqlite_errorname", type(error).__name__)


def _set(connection: sqlite3.Connection, durability: Durability, max_bytes: int) -> None:
    [(journal,)] = connection.execute("PRAGMA journal_mode = WAL")
    if journal != "wal":
        raise UnusableFile(
            "--sessions.path must be on a disk of this machine: SQLite cannot have its log (WAL) there"
        )
    connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what was deleted is not left in free pages
    [(page,)] = connection.execute("PRAGMA page_size")
    connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page)}")


def _prepare(connection: sqlite3.Connection, parts: Parts) -> None:
    """Check whose file it is; make the tables of a new one."""
    [(application,)] = connection.execute("PRAGMA application_id")
    [(version,)] = connection.execute("PRAGMA user_version")
    [(tables,)] = connection.execute("SELECT count(*) FROM sqlite_schema")
    if not (application or version or tables):
        _make(connection, parts)
        return
    if application != _APPLICATION:
        raise UnusableFile("--sessions.path is another program's database: it must be a new file, or one of ours")
    if version != VERSION:
        raise UnusableFile(
            f"--sessions.path has schema {version}, this server reads {VERSION}: it must be served by the version "
            "that wrote it, or be another file"
        )
    [(proof,)] = connection.execute("SELECT body FROM seal")
    if not parts.proves(proof):
        raise UnusableFile(
            "--sessions.path was written with another key, or without one: --sessions.key-file must be the same"
        )


def _make(connection: sqlite3.Connection, parts: Parts) -> None:
    for statement in _TABLES.split(";"):
        connection.execute(statement)
    connection.execute("INSERT INTO seal VALUES (?)", (parts.proof(),))
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
