"""What fails in a world, and when: a file's statements, engines, connections, the server.

Knows how each is brought about. Does not know which requests meet it. Work is done where it is submitted, so that
a schedule takes the same course each time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple, ParamSpec, TypeVar

from hypothesis import strategies as st

from serving.errors import EngineFault, Unavailable
from tests.scripted.script import Script

P = ParamSpec("P")
T = TypeVar("T")

MANY = 60
"""Steps of the event loop that hardly a request outlasts."""


class Trouble(NamedTuple):
    """What befalls a request before it comes again."""

    kind: str
    number: int
    """At which step, message, pass or statement."""


NONE = Trouble("none", 0)
STORE = {"store full": ("SQLITE_FULL", "RESOURCE_EXHAUSTED"), "store unavailable": ("SQLITE_IOERR", "UNAVAILABLE")}
"""SQLite's error, and how the call ends."""
ENGINES = {"language fails": "complete", "encoder fails": "encode", "decoder fails": "decode"}
BROKEN = ["answer lost", "cut", "killed", *STORE, *ENGINES]
TROUBLES = st.builds(
    Trouble, st.sampled_from(["none"] * len(BROKEN) + ["twice at once", *BROKEN]), st.integers(0, MANY)
)


class Inline(Executor):
    """Does its work at once, in the thread that submits it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        done = Future[T]()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # the future's
            done.set_exception(error)
        return done


class FailingConnection:
    """A connection to SQLite, of which statements fail from one on until it is mended."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._left, self._name, self._writes = -1, "", False

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def fail(self, name: str, after: int) -> None:
        self._name, self._left = name, after

    def mend(self) -> None:
        self._left = -1

    def execute(self, statement: str, *values: Any) -> Any:
        if statement.startswith("BEGIN"):
            self._writes = "IMMEDIATE" in statement
        if statement != "ROLLBACK":
            self._count()
        return self._connection.execute(statement, *values)

    def executemany(self, statement: str, rows: Any) -> Any:
        self._count()
        return self._connection.executemany(statement, rows)

    def close(self) -> None:
        self._connection.close()

    def _count(self) -> None:
        if self._left < 0 or (self._name == "SQLITE_FULL" and not self._writes):
            return
        if self._left == 0:
            error = sqlite3.OperationalError("planned")
            error.sqlite_errorname = self._name
            raise error
        self._left -= 1


def fail_engine(script: Script, operation: str, number: int) -> None:
    """One of its next calls: the engine is gone, or answers with nonsense."""
    error = Unavailable("planned", 2.0) if number % 2 else EngineFault("planned")
    script.fail_next(operation, error, after=number % 3)
