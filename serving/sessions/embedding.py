"""An image's embedding while a request works on it: asked for at once, there when the first mask is decoded.

Knows the embedding store, and that an image is brought to the encoder's size first. Does not know rounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from serving import request_context
from serving.domain import DecodedImage, Priority
from serving.geometry import Geometry
from serving.ports import EmbeddingLease, EmbeddingStore, Fill, Place, VisionEngine
from serving.runtime.record import RuntimeRecord
from serving.runtime.stopwatch import Stopwatch
from serving.runtime.tasks import run_in_executor, wait_until_done


@dataclass(frozen=True, slots=True)
class HeldEmbedding:
    """An embedding that this request holds, and the seconds it took to have it."""

    lease: EmbeddingLease
    seconds: float


@dataclass(frozen=True, slots=True)
class Encoding:
    """Fills leases of embeddings."""

    vision: VisionEngine
    geometry: Geometry
    executor: Executor

    async def __call__(self, image: DecodedImage, lease: EmbeddingLease) -> RuntimeRecord:
        """Only now is the image brought to the encoder's size: most rounds find its embedding."""
        prepared = await run_in_executor(self.executor, partial(self.geometry.encoder_image, image))
        return await self.vision.encode(prepared, lease)


@asynccontextmanager
async def embedding_of(
    key: str, store: EmbeddingStore, fill: Fill, priority: Priority, place: Place
) -> AsyncIterator[asyncio.Task[HeldEmbedding]]:
    """An embedding, on its way while the block runs, given back after it; see ``EmbeddingStore.acquire``.

    ``place``: the request's, which hears once it is there.
    """
    with request_context.prioritised(priority):
        task = asyncio.create_task(_acquire(key, store, fill, place))
    try:
        yield task
    finally:
        task.cancel()
        await wait_until_done(task)
        if not task.cancelled() and not task.exception():
            store.release(task.result().lease)


async def _acquire(key: str, store: EmbeddingStore, fill: Fill, place: Place) -> HeldEmbedding:
    watch = Stopwatch()
    lease = await store.acquire(key, fill)
    place.encoded(hit=lease.hit)
    return HeldEmbedding(lease, watch.seconds)
