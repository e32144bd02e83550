"""Embeddings in memory: this process's own, or a slab's that a server on this host may map.

Knows leases, waiters, a byte budget, the order of use, and where each embedding lies. Does not know images or what
fills an embedding. All on one event loop: between two awaits nothing changes.

With a slab a new embedding is put there. When every slot is taken, the least recently used embedding without a
lease moves into this process's memory; when all are leased, the new one is allocated there. Either is served, only
not by reference.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving import request_context
from serving.bundle import ImageSpec
from serving.domain import F32
from serving.errors import Exhausted, Shed, StillWriting
from serving.ports import EmbeddingLease, Fill
from serving.runtime.record import RuntimeRecord
from serving.runtime.slab import Slab, Slot
from serving.runtime.tasks import wait_until_done
from serving.stats import EmbeddingStats, PlacementStats


@dataclass(slots=True, eq=False)
class _Held:
    """One embedding, filled or on its way."""

    values: F32
    slot: Slot | None
    users: int = 0
    """Leases and waiters; 0 allows eviction."""
    filling: asyncio.Task[None] | None = None
    encoder: RuntimeRecord | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Lease:
    key: str
    hit: bool
    values: F32
    slot: Slot | None
    encoder: RuntimeRecord | None = None


class MemoryEmbeddings:
    """An EmbeddingStore. An embedding without a lease stays until another one needs its bytes."""

    def __init__(
        self, byte_budget: int, shape: tuple[int, ...], dtype: npt.DTypeLike, slab: Slab | None = None
    ) -> None:
        """``slab``: of slots of this shape and type; its bytes are part of the budget.

        Raises ValueError when ``byte_budget`` holds no embedding of this shape and type.
        """
        self._slab = slab
        self._shape, self._dtype = shape, np.dtype(dtype)
        size = int(np.prod(shape)) * self._dtype.itemsize
        if byte_budget < size:
            raise ValueError(f"a budget of {byte_budget} bytes holds no embedding of {size}")
        self._size, self._budget = size, byte_budget
        self._known: OrderedDict[str, _Held] = OrderedDict()
        self._leases: dict[EmbeddingLease, _Held] = {}
        self._count = 0  # buffers in use, cancelled fills that have yet to end included
        self._hits = self._misses = self._evictions = self._allocated = self._moved = 0

    @classmethod
    def of(cls, image: ImageSpec, byte_budget: int, slab: Slab | None = None) -> MemoryEmbeddings:
        """For embeddings as the model has them. Raises ValueError as the constructor does."""
        return cls(byte_budget, image.embedding, image.embedding_dtype, slab)

    @property
    def capacity(self) -> int:
        """How many fit the budget."""
        return self._budget // self._size

    @property
    def stats(self) -> EmbeddingStats:
        idle = [held for held in self._known.values() if not held.users]
        idle_shared = sum(1 for held in idle if held.slot)
        shared = self._slab.taken if self._slab else 0
        own = self._count - shared
        return EmbeddingStats(
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            nbytes=self._count * self._size,
            own=PlacementStats(own, own - (len(idle) - idle_shared)),
            shared=PlacementStats(shared, shared - idle_shared),
            allocated=self._allocated,
            moved=self._moved,
        )

    async def acquire(self, key: str, fill: Fill) -> EmbeddingLease:
        """Lease the embedding of ``key``, filled once for all callers. See ``EmbeddingStore``."""
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
        lease = _Lease(key, hit, held.values, held.slot, held.encoder)
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

    def demote(self, key: str) -> None:
        """See ``EmbeddingStore``."""
        if key in self._known:
            self._known.move_to_end(key, last=False)

    async def settled(self, key: str) -> bool:
        """See ``EmbeddingStore``."""
        waited = False
        while (held := self._known.get(key)) and held.filling and not held.filling.done():
            await asyncio.wait([held.filling])
            waited = True
        return waited

    def _begin(self, key: str, fill: Fill) -> _Held:
        """Make room for one more, and start to fill it in a task that outlives the caller's."""
        if (self._count + 1) * self._size > self._budget:
            self._evict()
        held = self._place()
        self._count += 1
        self._known[key] = held
        held.filling = asyncio.create_task(self._fill(key, held, fill))
        return held

    def _evict(self) -> None:
        for key, held in self._known.items():
            if not held.users:
                del self._known[key]
                self._gone(held)
                self._evictions += 1
                return
        raise Exhausted("every embedding that fits the memory budget is in use", reason=Shed.EMBEDDINGS)

    def _place(self) -> _Held:
        """Room for a new embedding: in the slab if a slot is free or can be freed."""
        if self._slab is not None:
            slot = self._slab.take() or self._moved_out(self._slab)
            if slot is not None:
                return _Held(slot.values, slot)
            self._allocated += 1
        return _Held(np.empty(self._shape, self._dtype), None)

    def _moved_out(self, slab: Slab) -> Slot | None:
        """The slot of the least recently used embedding without a lease, which moves out of the slab."""
        for held in self._known.values():
            if held.slot is not None and not held.users:
                slab.give_back(held.slot)
                held.values, held.slot = held.values.copy(), None
                held.values.flags.writeable = False
                self._moved += 1
                return slab.take()
        return None

    def _gone(self, held: _Held, *, still_written: bool = False) -> None:
        """Free its bytes, unless they are ``still_written``."""
        self._count -= 1
        if self._slab is not None and held.slot is not None:
            (self._slab.withhold if still_written else self._slab.give_back)(held.slot)

    async def _fill(self, key: str, held: _Held, fill: Fill) -> None:
        lost = False
        # The fill has no deadline: each waiter has its own, and the last to leave cancels it.
        request_context.set_deadline(None)
        try:
            held.encoder = await fill(_Lease(key, False, held.values, held.slot))
            held.values.flags.writeable = False
        except BaseException as error:
            lost = isinstance(error, StillWriting)
            self._forget(key, held)
            raise
        finally:
            if self._known.get(key) is not held:
                self._gone(held, still_written=lost)  # only now: until here the fill may have written

    def _forget(self, key: str, held: _Held) -> None:
        if self._known.get(key) is held:
            del self._known[key]

    async def _filled(self, key: str, held: _Held) -> None:
        """Wait for the fill. The last waiter to give up cancels it, and waits until nothing writes any more."""
        filling = held.filling
        if filling is None:
            return
        try:
            await asyncio.wait([filling])
        except asyncio.CancelledError:
            if held.users == 1:
                if not filling.done():
                    self._forget(key, held)  # a later acquire() starts a new fill
                    filling.cancel()
                await wait_until_done(filling)
            raise
        filling.result()
        held.filling = None
