"""TritonVision with its slabs on a real server, and that server's own client: what the fault tests play on."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from tritonclient.grpc.aio import InferenceServerClient

from demo.triton.server import Triton
from serving import request_context
from serving.bundle import Bundle
from serving.domain import F32
from serving.ports import DecodedMasks, EmbeddingLease
from serving.runtime.record import RuntimeRecord
from serving.runtime.slab import DIRECTORY, PREFIX, Slab
from serving.stores.embeddings import MemoryEmbeddings
from serving.vision.triton.engine import TritonOptions, TritonVision, mask_slab
from tests.scripted.pictures import encoder_image

SLOTS = 4
MASK_SLOTS = 4


@dataclass(frozen=True, slots=True)
class Counted:
    """What a model has done."""

    requests: int
    runs: int
    sizes: Counter[int]
    """Runs, by the size of their batch."""

    def since(self, before: Counted) -> Counted:
        return Counted(self.requests - before.requests, self.runs - before.runs, self.sizes - before.sizes)


@dataclass(frozen=True, slots=True)
class Stage:
    bundle: Bundle
    engine: TritonVision
    store: MemoryEmbeddings
    slab: Slab | None
    masks: Slab | None
    server: Triton
    client: InferenceServerClient

    @property
    def admin(self) -> dict[str, str]:
        return {"triton-grpc-protocol-admin-key": self.server.admin_key}

    async def lease(self, seed: int = 1, seconds: float | None = None) -> EmbeddingLease:
        """``seconds``: what the encode is allowed."""
        image = encoder_image(self.bundle.manifest, seed)

        async def fill(lease: EmbeddingLease) -> RuntimeRecord:
            request_context.set_deadline(seconds)
            return await self.engine.encode(image, lease)

        return await self.store.acquire(image.key, fill)

    async def decode(self, lease: EmbeddingLease, count: int = 1) -> DecodedMasks:
        return await self.engine.decode(lease, features(count), np.zeros(count, np.float32))

    async def counted(self, model: str = "mask_decoder") -> Counted:
        """By Triton, since the model was loaded: warm-ups and other tests among it.

        Settled: it counts a request a moment after its reply.
        """
        last = None
        while last != (last := await self._counted(model)):  # noqa: ASYNC110  # Triton has no event
            await asyncio.sleep(0.2)
        return last

    async def _counted(self, model: str) -> Counted:
        (told,) = (await self.client.get_inference_statistics(model)).model_stats
        sizes = Counter({int(batch.batch_size): int(batch.compute_infer.count) for batch in told.batch_stats})
        return Counted(int(told.inference_count), int(told.execution_count), sizes)

    async def load(self, model: str) -> None:
        await self.client.load_model(model, headers=self.admin)

    async def unload(self, model: str) -> None:
        """Return when it is gone: the call itself does not wait."""
        await self.client.unload_model(model, headers=self.admin)
        while await self.client.is_model_ready(model):
            pass


@asynccontextmanager
async def stage(
    bundle: Bundle, server: Triton, *, by_reference: bool = True, patience: float = 30.0, places: int = 16
) -> AsyncIterator[Stage]:
    """``places``: embeddings that the store holds, those in the slab's ``SLOTS`` among them."""
    image = bundle.manifest.image
    slab = Slab(SLOTS, image.embedding, image.embedding_dtype) if by_reference else None
    masks = mask_slab(bundle, MASK_SLOTS) if by_reference else None
    options = TritonOptions(admin_key=server.admin_key, patience=patience)
    engine = TritonVision(bundle, server.address, options, embeddings=slab, masks=masks)
    store = MemoryEmbeddings.of(image, places << 22, slab)
    client = InferenceServerClient(server.address)
    try:
        yield Stage(bundle, engine, store, slab, masks, server, client)
    finally:
        await engine.close()
        await client.close()
        for each in filter(None, (slab, masks)):
            each.close()


def features(count: int) -> F32:
    return np.random.default_rng(count).standard_normal((count, 256), np.float32)


def shared_memory(*servers: Triton) -> set[str]:
    """Names of what this process and these servers have in /dev/shm; others may come and go there."""
    ours = (f"{PREFIX}{os.getpid()}_", *(server.memory for server in servers))
    return {path.name for path in DIRECTORY.iterdir() if path.name.startswith(ours)}
