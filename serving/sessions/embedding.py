"""An image's embedding while a request works on it: asked for at once, there when the first mask is decoded.

Knows the embedding store. Does not know rounds, or how an embedding is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from serving import request_context
from serving.domain import Priority
from serving.ports import EmbeddingLease, EmbeddingStore, Fill
from serving.runtime.stopwatch import Stopwatch
from serving.runtime.tasks import wait_until_done


@dataclass(frozen=True, slots=True)
class HeldEmbedding:
    """An embedding that this request holds, and the seconds it took to have it."""

    lease: EmbeddingLease
    seconds: float


@asynccontextmanager
async def embedding_of(
    key: str, store: EmbeddingStore, fill: Fill, priority: Priority
) -> AsyncIterator[asyncio.Task[HeldEmbedding]]:
    """An embedding, on its way while the block runs, given back after it; see ``EmbeddingStore.acquire``."""
    with request_context.prioritised(priority):
        task = asyncio.create_task(_acquire(key, store, fill))
    try:
        yield task
    finally:
        task.cancel()
        await wait_until_done(task)
        if not task.cancelled() and not task.exception():
            store.release(task.result().lease)


async def _acquire(key: str, store: EmbeddingStore, fill: Fill) -> HeldEmbedding:
    watch = Stopwatch()
    lease = await store.acquire(key, fill)
    return HeldEmbedding(lease, watch.seconds)
