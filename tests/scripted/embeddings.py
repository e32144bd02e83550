"""A second embedding store: a fixed number of slots in one block, as a shared-memory slab has them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving import request_context
from serving.domain import F32
from serving.errors import Exhausted
from serving.ports import EmbeddingLease, Fill
from serving.runtime.record import RuntimeRecord


@dataclass(frozen=True, slots=True, eq=False)
class SlotLease:
    key: str
    hit: bool
    number: int
    block: F32
    encoders: list[RuntimeRecord | None]
    slot: None = None

    @property
    def values(self) -> F32:
        return self.block[self.number]

    @property
    def encoder(self) -> RuntimeRecord | None:
        return self.encoders[self.number]


class SlotEmbeddings:
    """An EmbeddingStore whose places never move. A slot is free, named by a key, or still being given up."""

    def __init__(self, slots: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._block = np.zeros((slots, *shape), dtype)
        self._encoders: list[RuntimeRecord | None] = [None] * slots
        self._free = list(range(slots))
        self._slot_of: dict[str, int] = {}  # in the order of last use
        self._users = [0] * slots
        self._fills: dict[int, asyncio.Future[None]] = {}
        self._given: set[EmbeddingLease] = set()

    async def acquire(self, key: str, fill: Fill) -> EmbeddingLease:
        hit = key in self._slot_of
        slot = self._slot_of.pop(key) if hit else self._take()
        self._slot_of[key] = slot
        lease = SlotLease(key, hit, slot, self._block, self._encoders)
        if not hit:
            self._encoders[slot] = None
            self._fills[slot] = asyncio.create_task(_filled(lease, fill))
            self._fills[slot].add_done_callback(lambda done: self._filled(key, slot, done))
        self._users[slot] += 1
        try:
            if slot in self._fills:
                await asyncio.shield(self._fills[slot])
        except asyncio.CancelledError:
            await self._leave(key, slot)
            raise
        except Exception:
            self._users[slot] -= 1
            raise
        self._given.add(lease)
        return lease

    def release(self, lease: EmbeddingLease) -> None:
        if lease not in self._given:
            raise ValueError("this lease is not held")
        self._given.remove(lease)
        self._users[self._slot_of[lease.key]] -= 1

    def holds(self, key: str) -> bool:
        return key in self._slot_of

    def demote(self, key: str) -> None:
        if key in self._slot_of:
            self._slot_of = {key: self._slot_of.pop(key), **self._slot_of}

    async def settled(self, key: str) -> bool:
        waited = False
        while filling := self._fills.get(self._slot_of.get(key, -1)):
            await asyncio.wait([filling])
            await asyncio.sleep(0)  # its end is noted
            waited = True
        return waited

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        for key, slot in self._slot_of.items():
            if not self._users[slot]:
                del self._slot_of[key]
                return slot
        raise Exhausted("every slot is leased")

    async def _leave(self, key: str, slot: int) -> None:
        filling = self._fills.get(slot)
        if self._users[slot] == 1 and filling and not filling.done():
            del self._slot_of[key]
            filling.cancel()
            while not filling.done():
                try:
                    await asyncio.wait([filling])
                except asyncio.CancelledError:
                    continue
        self._users[slot] -= 1

    def _filled(self, key: str, slot: int, done: asyncio.Future[None]) -> None:
        del self._fills[slot]
        failed = done.cancelled() or done.exception() is not None
        if failed and self._slot_of.get(key) == slot:
            del self._slot_of[key]
        if failed:
            self._free.append(slot)


async def _filled(lease: SlotLease, fill: Fill) -> None:
    request_context.set_deadline(None)
    lease.encoders[lease.number] = await fill(lease)
