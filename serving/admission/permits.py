"""Permits for work that runs at the same time; a call that gets none is refused at once, with a time to retry.

Knows how many permits there are and how many are held. Does not know what is done with one. Nothing waits here:
that is ``serving.admission.queue``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext

from serving.domain import Priority, Tell, unheard
from serving.errors import Exhausted, Shed
from serving.ports import ExpectedWork, Place

_RETRY_AFTER_S = 1.0


class _OpenPlace:
    """A Place of which there are enough."""

    def encoded(self, *, hit: bool) -> None:
        """See ``Place``."""


class OpenGate:
    """A Gate that admits every request at once: for a single caller, without competition."""

    def admitted(
        self,
        work: ExpectedWork,  # noqa: ARG002  # Gate's signature
        caller: str,  # noqa: ARG002
        priority: Priority,  # noqa: ARG002
        tell: Tell = unheard,  # noqa: ARG002
    ) -> AbstractAsyncContextManager[Place]:
        """See ``Gate``."""
        return nullcontext(_OpenPlace())


class ByteBudget:
    """Bytes that requests may hold together. All on one event loop.

    Where requests name their payer, each payer may hold at most half of what the others leave: whatever some hold,
    another finds room.
    """

    def __init__(self, max_bytes: int, work: str, reason: Shed) -> None:
        """``work`` names what holds them in the error; ``reason`` in metrics."""
        self._max_bytes, self._work, self._reason = max_bytes, work, reason
        self._bytes = 0
        self._held: Counter[tuple[str, str]] = Counter()

    @property
    def nbytes(self) -> int:
        """Held now."""
        return self._bytes

    @contextmanager
    def share(self, payer: tuple[str, str] | None = None) -> Iterator[Callable[[int], None]]:
        """A function that takes more bytes, which are given back after the block; it raises Exhausted."""
        held = 0

        def take(nbytes: int) -> None:
            nonlocal held
            self._check(nbytes, payer)
            self._bytes += nbytes
            held += nbytes
            if payer is not None:
                self._held[payer] += nbytes

        try:
            yield take
        finally:
            self._bytes -= held
            if payer is not None:
                self._held[payer] -= held
                if not self._held[payer]:
                    del self._held[payer]

    def _check(self, nbytes: int, payer: tuple[str, str] | None) -> None:
        """Raises Exhausted where so many more bytes do not fit."""
        left = self._max_bytes - self._bytes - nbytes
        if left < 0:
            raise Exhausted(f"{self._work} hold all the memory for them", _RETRY_AFTER_S, self._reason)
        if payer is not None and self._held[payer] + nbytes > left:
            words = f"your {self._work} hold all the memory that one caller may have for them"
            raise Exhausted(words, _RETRY_AFTER_S, self._reason)


class Permits:
    """Permits for one kind of work. All on one event loop."""

    def __init__(self, permits: int, work: str, reason: Shed) -> None:
        """``work`` names the work in the error, for example ``rounds``; ``reason`` in metrics."""
        self._permits, self._work, self._reason = permits, work, reason
        self._in_use = 0

    @property
    def in_use(self) -> int:
        """Permits in use now."""
        return self._in_use

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Hold one permit. Raises Exhausted when none is left."""
        if self._in_use >= self._permits:
            raise Exhausted(f"{self._permits} {self._work} are in progress", _RETRY_AFTER_S, self._reason)
        self._in_use += 1
        try:
            yield
        finally:
            self._in_use -= 1
