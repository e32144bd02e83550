"""The one timer of this program's own work.

Knows the clock that is read. Does not know what is timed, or who is told.
"""

from __future__ import annotations

from time import perf_counter
from typing import Self


class Stopwatch:
    """Runs from when it is made; as a context, until the block ends."""

    def __init__(self) -> None:
        self._began = perf_counter()
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        """Until now, or until it was stopped."""
        return (perf_counter() if self._ended is None else self._ended) - self._began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = perf_counter()
