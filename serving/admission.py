"""How much is let in at once.

Knows a number of permits. Does not know what is done with one; who is refused is told to come again, and
nothing waits here, so that a full server answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serving.errors import Exhausted

_RETRY_AFTER_S = 1.0


class Admission:
    """Permits for one kind of work. All on one event loop."""

    def __init__(self, permits: int, work: str) -> None:
        """``work`` names the work in the error, for example ``rounds``."""
        self._permits, self._work = permits, work
        self._given = 0

    @property
    def given(self) -> int:
        """Permits that are held now."""
        return self._given

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Hold one permit. Raises Exhausted when none is left."""
        if self._given >= self._permits:
            raise Exhausted(f"{self._permits} {self._work} are in progress", _RETRY_AFTER_S)
        self._given += 1
        try:
            yield
        finally:
            self._given -= 1
