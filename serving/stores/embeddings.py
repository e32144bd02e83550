"""Embeddings in this process's memory.

Knows leases, a byte budget, who waits for whom, and which embedding was used last. Does not know images or
what fills an embedding. All on one event loop: between two awaits nothing changes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.domain import F32
from serving.errors import Exhausted, Shed
from serving.ports import EmbeddingLease, Fill
from serving.settled import settled


@dataclass(frozen=True, slots=True)
class EmbeddingStats:
    hits: int
    misses: int
    evictions: int
    nbytes: int
    """Held now, fills that are on their way included."""
    leased: int
    """Of those, how many somebody holds, waits for, or still writes."""


@dataclass(slots=True, eq=False)
class _Held:
    """One embedding, filled or on its way."""

    values: F32
    users: int = 0
    """Leases and waiters; 0 allows eviction."""
    filling: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Lease:
    key: str
    hit: bool
    values: F32


class MemoryEmbeddings:
    """An EmbeddingStore. An embedding nobody leases stays until another one needs its bytes."""

    def __init__(self, byte_budget: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Raises ValueError when ``byte_budget`` holds no embedding of this shape and type."""
        self._shape, self._dtype = shape, np.dtype(dtype)
        size = int(np.prod(shape)) * self._dtype.itemsize
        if byte_budget < size:
            raise ValueError(f"a budget of {byte_budget} bytes holds no embedding of {size}")
        self._size, self._budget = size, byte_budget
        self._known: OrderedDict[str, _Held] = OrderedDict()
        self._leases: dict[EmbeddingLease, _Held] = {}
        self._count = 0  # buffers in use, cancelled fills that have yet to end included
        self._hits = self._misses = self._evictions = 0

    @property
    def stats(self) -> EmbeddingStats:
        idle = sum(1 for held in self._known.values() if not held.users)
        held_bytes = self._count * self._size
        return EmbeddingStats(self._hits, self._misses, self._evictions, held_bytes, self._count - idle)

    async def acquire(self, key: str, fill: Fill) -> EmbeddingLease:
        """Lease the embedding of ``key``, filled once for all who ask. See ``EmbeddingStore``."""
        held = self._known.get(key)
        hit = held is not None
        if held is None:
            held = self._begin(key, fill)
        self._known.move_to_end(key)
        self._hits, self._misses = self._hits + hit, self._misses + (not hit)
        held.users += 1
        try:
            await self._filled(key, held)
        except BaseException:
            held.users -= 1
            raise
        lease = _Lease(key, hit, held.values)
        self._leases[lease] = held
        return lease

    def release(self, lease: EmbeddingLease) -> None:
        """Raises ValueError for a lease that is not this store's, or was given back before."""
        held = self._leases.pop(lease, None)
        if held is None:
            raise ValueError("this lease is not held")
        held.users -= 1

    def holds(self, key: str) -> bool:
        """See ``EmbeddingStore``."""
        return key in self._known

    def _begin(self, key: str, fill: Fill) -> _Held:
        """Make room for one more, and start to fill it in a task that outlives the one who asked."""
        if (self._count + 1) * self._size > self._budget:
            self._evict()
        held = _Held(np.empty(self._shape, self._dtype))
        self._count += 1
        self._known[key] = held
        held.filling = asyncio.create_task(self._fill(key, held, fill))
        return held

    def _evict(self) -> None:
        for key, held in self._known.items():
            if not held.users:
                del self._known[key]
                self._count -= 1
                self._evictions += 1
                return
        raise Exhausted("every embedding that fits the memory budget is in use", reason=Shed.EMBEDDINGS)

    async def _fill(self, key: str, held: _Held, fill: Fill) -> None:
        try:
            await fill(_Lease(key, False, held.values))
            held.values.flags.writeable = False
        except BaseException:
            self._forget(key, held)
            raise
        finally:
            if self._known.get(key) is not held:
                self._count -= 1  # only now: until here the fill may have written

    def _forget(self, key: str, held: _Held) -> None:
        if self._known.get(key) is held:
            del self._known[key]

    async def _filled(self, key: str, held: _Held) -> None:
        """Wait for the fill. The last one to give up cancels it, and waits until nothing writes any more."""
        filling = held.filling
        if filling is None:
            return
        try:
            await asyncio.wait([filling])
        except asyncio.CancelledError:
            if held.users == 1:
                if not filling.done():
                    self._forget(key, held)  # who asks now begins anew
                    filling.cancel()
                await settled(filling)
            raise
        filling.result()
        held.filling = None
