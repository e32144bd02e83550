"""An image's embedding while a request works on it: asked for at once, there when the first mask is decoded.

Knows the embedding store and the engine that fills it. Does not know rounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from serving import request_context
from serving.domain import Priority, SourceImage
from serving.ports import EmbeddingLease, EmbeddingStore, VisionEngine
from serving.runtime.stopwatch import Stopwatch
from serving.runtime.tasks import wait_until_done


@dataclass(frozen=True, slots=True)
class HeldEmbedding:
    """An embedding that this request holds, and the seconds it took to have it."""

    lease: EmbeddingLease
    seconds: float


@asynccontextmanager
async def embedding_of(
    image: SourceImage, store: EmbeddingStore, vision: VisionEngine, priority: Priority
) -> AsyncIterator[asyncio.Task[HeldEmbedding]]:
    """The image's embedding, on its way while the block runs, given back after it."""
    with request_context.prioritised(priority):
        task = asyncio.create_task(_acquire(image, store, vision))
    try:
        yield task
    finally:
        task.cancel()
        await wait_until_done(task)
        if not task.cancelled() and not task.exception():
            store.release(task.result().lease)


async def _acquire(image: SourceImage, store: EmbeddingStore, vision: VisionEngine) -> HeldEmbedding:
    encoder, watch = image.encoder, Stopwatch()
    lease = await store.acquire(encoder.key, lambda lease: vision.encode(encoder, lease))
    return HeldEmbedding(lease, watch.seconds)
