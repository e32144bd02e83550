"""Memory that TritonVision shares with a real Triton: what lies where, who maps it, and what is left of it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from demo.triton.server import Triton
from serving.bundle import Bundle
from serving.errors import StillWriting
from serving.ports import EmbeddingLease
from serving.runtime.slab import Slab
from serving.stats import PlacementStats
from serving.vision.onnx import OnnxVision
from serving.vision.triton import connection
from tests.scripted.pictures import encoder_image
from tests.triton.harness import MASK_SLOTS, SLOTS, Stage, features, shared_memory, stage


async def test_a_full_slab_serves_all_the_same(random_bundle: Bundle, random_triton: Triton) -> None:
    """Two embeddings too many lie outside, their masks come through memory; later one moves out for another."""
    onnx = OnnxVision(random_bundle, threads=1)

    async def as_onnx(on: Stage, lease: EmbeddingLease, seed: int) -> None:
        image = encoder_image(random_bundle.manifest, seed)
        other = await on.store.acquire(f"onnx {seed}", lambda place: onnx.encode(image, place))
        np.testing.assert_allclose(lease.values, other.values, rtol=0, atol=1e-5)
        ours = await on.decode(lease, 2)
        theirs = await onnx.decode(other, features(2), np.zeros(2, np.float32))
        np.testing.assert_allclose(ours.logits, theirs.logits, rtol=0, atol=1e-4)
        on.store.release(other)

    async with stage(random_bundle, random_triton) as on:
        leases = [await on.lease(seed) for seed in range(SLOTS + 2)]
        assert [lease.slot is not None for lease in leases] == [True] * SLOTS + [False] * 2
        stats, counts = on.store.stats, on.engine.counts
        assert (stats.allocated, stats.moved) == (2, 0)
        assert (stats.shared, stats.own) == (PlacementStats(SLOTS, SLOTS), PlacementStats(2, 2))
        assert (counts.encodes, counts.encodes_by_value) == (SLOTS + 2, 2)
        received = counts.bytes_received
        for seed, lease in enumerate(leases):
            await as_onnx(on, lease, seed)
        counts = on.engine.counts
        assert (counts.decodes, counts.decodes_by_value) == (SLOTS + 2, 2)
        assert counts.bytes_received - received < 32 << 10  # scores and features; no masks
        for lease in leases:
            on.store.release(lease)
        new = await on.lease(50)
        assert new.slot is not None
        assert on.store.stats.moved == 1
        moved = await on.lease(0)  # was used least recently
        assert moved.hit
        assert moved.slot is None
        await as_onnx(on, moved, 0)
        await as_onnx(on, new, 50)
        assert on.engine.counts.decodes_by_value == 3
    await onnx.close()


async def test_masks_come_by_grpc_when_their_slots_are_taken(random_bundle: Bundle, random_triton: Triton) -> None:
    async with stage(random_bundle, random_triton) as on:
        lease = await on.lease()
        alone = await on.decode(lease)
        received = on.engine.counts.bytes_received
        together = await asyncio.gather(*(on.decode(lease) for _ in range(MASK_SLOTS + 2)))
        for decoded in together:
            np.testing.assert_allclose(decoded.logits, alone.logits, rtol=0, atol=1e-4)
        assert (on.engine.counts.bytes_received - received) // alone.logits.nbytes == 2
        assert on.masks is not None
        assert on.masks.free == MASK_SLOTS


async def test_a_request_by_reference_that_gets_no_reply_withholds_its_slot(
    random_bundle: Bundle, random_triton: Triton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_QUEUEING", 1000.0)  # Triton must not refuse it before
    async with stage(random_bundle, random_triton, patience=0.02) as on:
        with pytest.raises(StillWriting):
            await on.lease(12)
        assert on.slab is not None
        assert (on.slab.withheld, on.slab.free) == (1, SLOTS - 1)


async def test_a_region_that_was_unregistered_is_mapped_again(
    random_bundle: Bundle, random_triton: Triton
) -> None:
    """By hand, in a Triton that lives: who wrote there may still do."""
    async with stage(random_bundle, random_triton) as on:
        lease = await on.lease()
        before = await on.decode(lease)
        assert on.slab is not None
        slot = on.slab.take()
        assert slot is not None
        on.slab.withhold(slot)
        await on.client.unregister_system_shared_memory(headers=on.admin)
        after = await on.decode(lease)
        assert np.array_equal(before.logits, after.logits)
        counts = on.engine.counts
        assert (counts.retries, counts.decodes_by_value) == (1, 0)
        assert (counts.handshakes, counts.mappings) == (2, 4)  # of two slabs
        assert on.slab.withheld == 1


async def test_regions_of_the_dead_are_let_go_and_ours_at_the_end(
    random_bundle: Bundle, random_triton: Triton
) -> None:
    dead = Slab(1, (4,), np.float32)
    async with stage(random_bundle, random_triton) as on:
        await on.client.register_system_shared_memory(dead.name, dead.key, dead.nbytes, headers=on.admin)
        dead.close()
        await on.engine.reached()
        assert on.slab is not None
        regions = (await on.client.get_system_shared_memory_status(headers=on.admin)).regions
        assert dead.name not in regions
        assert on.slab.name in regions
        await on.engine.close()
        regions = (await on.client.get_system_shared_memory_status(headers=on.admin)).regions
        assert on.slab.name not in regions


async def test_it_leaves_nothing_in_shared_memory(random_bundle: Bundle, random_triton: Triton) -> None:
    before = shared_memory()
    async with stage(random_bundle, random_triton) as on:
        await on.decode(await on.lease())
        assert shared_memory() > before
    assert shared_memory() == before
