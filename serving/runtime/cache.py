"""Entries within a byte budget: the least recently used is evicted first.

Knows sizes, the order of use, and what it counts. Does not know what is kept, or when an entry counts as found:
each cache that is made of one has its own rule, and counts hits and misses by it. For one thread; ``stats`` may be
read from any, and the numbers are then of about the same time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from serving.stats import CacheStats

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteLru(Generic[K, V]):
    """A mapping of at most ``max_bytes``, as ``size`` counts them."""

    def __init__(self, max_bytes: int, size: Callable[[V], int]) -> None:
        self._max_bytes, self._size = max_bytes, size
        self._entries: OrderedDict[K, V] = OrderedDict()  # least recently used first
        self._nbytes = self._hits = self._misses = self._evictions = 0

    @property
    def nbytes(self) -> int:
        return self._nbytes

    @property
    def stats(self) -> CacheStats:
        return CacheStats(self._hits, self._misses, self._evictions, self._nbytes)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """The entry, which is now the most recently used; None when there is none. Counts nothing."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: K, value: V) -> None:
        """Hold ``value`` in place of what ``key`` had. One larger than the budget is not held, and evicts none."""
        self.drop(key)
        size = self._size(value)
        if size > self._max_bytes:
            return
        self._entries[key] = value
        self._nbytes += size
        while self._nbytes > self._max_bytes:
            self._nbytes -= self._size(self._entries.popitem(last=False)[1])
            self._evictions += 1

    def drop(self, key: K) -> None:
        """Hold nothing for ``key``; not counted as an eviction."""
        if key in self._entries:
            self._nbytes -= self._size(self._entries.pop(key))

    def oldest(self) -> tuple[K, V] | None:
        """The least recently used entry, which stays so; None when there is none."""
        return next(iter(self._entries.items()), None)

    def count(self, *, hit: bool) -> None:
        """A lookup, or what its owner counts as one, found what it asked for or did not."""
        self._hits, self._misses = self._hits + hit, self._misses + (not hit)
