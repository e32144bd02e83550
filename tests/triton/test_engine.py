"""TritonVision on a real Triton that nobody harms: batches, limits, cancels, memory, and refusals at the start."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from demo.triton.server import Triton
from serving import deadline
from serving.bundle import IMAGE_ENCODER, Bundle, BundleError
from serving.errors import DeadlineExceeded, EngineFault, Exhausted, StillWriting, Unavailable
from serving.slab import Slab, SlabError
from serving.vision.onnx import OnnxVision
from serving.vision.triton.engine import TritonOptions, TritonVision
from tests.scripted.pictures import encoder_image
from tests.triton.stage import SLOTS, features, shared_memory, stage


async def test_both_models_are_ready_under_production_configurations(
    random_bundle: Bundle, random_triton: Triton
) -> None:
    async with stage(random_bundle, random_triton) as on:
        index = await on.client.get_model_repository_index(headers=on.admin)
        assert {model.name: model.state for model in index.models} == {
            "image_encoder": "READY",
            "mask_decoder": "READY",
        }
        await on.engine.reached()
        assert on.engine.description == "triton/2.51.0 tensorrt_plan"


async def test_a_round_moves_the_pixels_and_little_else(random_bundle: Bundle, random_triton: Triton) -> None:
    side = random_bundle.manifest.image.side
    moved = {}
    for by_reference in (True, False):
        async with stage(random_bundle, random_triton, by_reference=by_reference) as on:
            lease = await on.lease()
            encoding = on.engine.counts
            await on.decode(lease)
            counts = on.engine.counts
            moved[by_reference] = (
                encoding.bytes_sent,
                encoding.bytes_received,
                counts.bytes_sent - encoding.bytes_sent,
                counts.bytes_received - encoding.bytes_received,
            )
            assert (counts.encodes_by_value, counts.decodes_by_value) == (not by_reference, not by_reference)
    pixels, embedding, masks, feature = side * side * 3 + 8, 4 << 20, 256 * 256 * 4, 256 * 4
    assert moved[True] == (pixels, 0, feature + 4, feature + 5)
    assert moved[False] == (pixels, embedding, embedding + feature + 4, masks + feature + 5)


@pytest.mark.parametrize("by_reference", [True, False], ids=["by reference", "by value"])
async def test_it_computes_what_onnx_does_on_an_image_that_is_not_square(
    random_bundle: Bundle, random_triton: Triton, by_reference: bool
) -> None:
    side = random_bundle.manifest.image.side
    image = encoder_image(random_bundle.manifest, 7, (side * 2 // 3, side))
    onnx = OnnxVision(random_bundle, threads=1)
    async with stage(random_bundle, random_triton, by_reference=by_reference) as on:
        lease = await on.store.acquire(image.key, lambda lease: on.engine.encode(image, lease))
        other = await on.store.acquire("onnx", lambda lease: onnx.encode(image, lease))
        np.testing.assert_allclose(lease.values, other.values, rtol=0, atol=1e-5)
        thresholds = np.full(20, 0.5, np.float32)  # more than one call takes
        ours = await on.engine.decode(lease, features(20), thresholds)
        theirs = await onnx.decode(other, features(20), thresholds)
        np.testing.assert_allclose(ours.logits, theirs.logits, rtol=0, atol=1e-4)
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-5)
        assert np.array_equal(ours.corrected, theirs.corrected)
        assert on.engine.counts.decodes == 3
    await onnx.close()


async def test_batches_form(random_bundle: Bundle, random_triton: Triton) -> None:
    async with stage(random_bundle, random_triton) as on:
        lease = await on.lease()
        alone = await on.decode(lease)
        together = await asyncio.gather(*(on.decode(lease) for _ in range(24)))
        for decoded in together:
            np.testing.assert_allclose(decoded.logits, alone.logits, rtol=0, atol=1e-4)
        told = await on.client.get_inference_statistics("mask_decoder")
        (model,) = told.model_stats
        largest = max(int(batch.batch_size) for batch in model.batch_stats)
        assert 1 < largest <= 16
        assert model.execution_count < model.inference_count


async def test_a_full_queue_is_exhausted_and_passes(random_bundle: Bundle, random_triton: Triton) -> None:
    async with stage(random_bundle, random_triton) as on:
        lease = await on.lease()
        outcomes = await asyncio.gather(*(on.decode(lease) for _ in range(160)), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert refused
        assert {type(error) for error in refused} == {Exhausted}
        assert all(isinstance(error, Exhausted) and error.retry_after > 0 for error in refused)
        assert len(refused) < 160
        assert np.isfinite((await on.decode(lease)).logits).all()


async def test_a_deadline_ends_a_request_by_value(random_bundle: Bundle, random_triton: Triton) -> None:
    async with stage(random_bundle, random_triton, by_reference=False) as on:
        await on.engine.reached()

        async def hurried() -> None:
            deadline.allow(0.02)
            await on.lease(11)

        with pytest.raises((DeadlineExceeded, Unavailable)):
            await asyncio.create_task(hurried())
        assert (await on.lease(11)).hit is False


async def test_a_request_by_reference_that_gets_no_reply_withholds_its_slot(
    random_bundle: Bundle, random_triton: Triton
) -> None:
    async with stage(random_bundle, random_triton, patience=0.02) as on:
        with pytest.raises(StillWriting):
            await on.lease(12)
        assert on.slab is not None
        assert (on.slab.withheld, on.slab.free) == (1, SLOTS - 1)


async def test_cancelled_by_value_never_begins_at_triton(random_bundle: Bundle, random_triton: Triton) -> None:
    async with stage(random_bundle, random_triton, by_reference=False) as on:
        await on.lease(1)
        before = cancelled(random_triton)
        calls = [asyncio.create_task(on.lease(seed)) for seed in range(30, 40)]
        await asyncio.sleep(0.1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for _ in range(100):
            if cancelled(random_triton) > before:
                break
            await asyncio.sleep(0.1)
        assert cancelled(random_triton) > before
        await on.lease(1)


def cancelled(server: Triton) -> float:
    found = re.search(
        r'nv_inference_request_failure\{model="image_encoder",reason="CANCELED",version="1"\} (\S+)',
        server.metrics(),
    )
    return float(found[1]) if found else 0.0


async def test_cancelled_by_reference_is_free_when_triton_replied(
    random_bundle: Bundle, random_triton: Triton
) -> None:
    async with stage(random_bundle, random_triton) as on:
        assert on.slab is not None
        await on.engine.reached()
        call = asyncio.create_task(on.lease(21))
        await asyncio.sleep(0.01)
        assert on.slab.free == SLOTS - 1
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        assert (on.slab.free, on.slab.withheld) == (SLOTS, 0)
        slot = on.slab.take()
        assert slot is not None
        slot.values[...] = 7
        await asyncio.sleep(0.3)
        assert (slot.values == 7).all()
        on.slab.give_back(slot)


async def test_a_region_that_was_unregistered_is_mapped_again(
    random_bundle: Bundle, random_triton: Triton
) -> None:
    async with stage(random_bundle, random_triton) as on:
        lease = await on.lease()
        before = await on.decode(lease)
        await on.client.unregister_system_shared_memory(headers=on.admin)
        after = await on.decode(lease)
        assert np.array_equal(before.logits, after.logits)
        counts = on.engine.counts
        assert (counts.retries, counts.decodes_by_value) == (1, 0)
        assert (counts.meetings, counts.mappings) == (2, 4)  # of two slabs


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


async def test_an_embedding_that_is_not_finite_is_refused(random_bundle: Bundle, random_triton: Triton) -> None:
    async with stage(random_bundle, random_triton) as on:

        async def fill(lease: object) -> None:
            lease.values[...] = np.nan

        with pytest.raises(EngineFault, match="not finite"):
            await on.decode(await on.store.acquire("nan", fill))


async def test_tensors_of_another_shape_are_our_fault(random_bundle: Bundle, random_triton: Triton) -> None:
    async with stage(random_bundle, random_triton) as on:
        lease = await on.lease()
        with pytest.raises(EngineFault, match="INVALID_ARGUMENT"):
            await on.engine.decode(lease, np.ones((1, 3), np.float32), np.zeros(1, np.float32))


async def test_another_bundle_is_refused_at_the_start_and_says_why(
    random_bundle: Bundle, random_triton: Triton
) -> None:
    manifest = random_bundle.manifest
    image = manifest.image.model_copy(update={"side": 256})
    files = manifest.files | {IMAGE_ENCODER: "f" * 64}
    other = replace(random_bundle, manifest=manifest.model_copy(update={"image": image, "files": files}))
    engine = TritonVision(other, random_triton.address, TritonOptions())
    with pytest.raises(BundleError) as refused:
        await engine.reached()
    said = str(refused.value)
    assert "image_u8 is uint8[*,1024,1024,3] there, uint8[*,256,256,3] here" in said
    assert "SHA-256" in said
    assert "exporters repository" in said
    with pytest.raises(Unavailable, match="another model"):
        await engine.encode(encoder_image(other.manifest, 1), None)
    await engine.close()


async def test_without_the_admin_key_memory_is_refused(random_bundle: Bundle, random_triton: Triton) -> None:
    image = random_bundle.manifest.image
    slab = Slab(1, image.embedding, image.embedding_dtype)
    engine = TritonVision(random_bundle, random_triton.address, TritonOptions(), embeddings=slab)
    with pytest.raises(SlabError, match="admin-key"):
        await engine.reached()
    await engine.close()
    slab.close()


async def test_an_unknown_version_is_waited_for_with_a_word(
    random_bundle: Bundle, random_triton: Triton, caplog: pytest.LogCaptureFixture
) -> None:
    engine = TritonVision(random_bundle, random_triton.address, TritonOptions(version="9"))
    with caplog.at_level(logging.WARNING), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await engine.reached()
    assert "of another version" in caplog.text
    await engine.close()


async def test_nobody_there_is_unavailable_at_once(random_bundle: Bundle) -> None:
    engine = TritonVision(random_bundle, "127.0.0.1:9", TritonOptions())
    began = time.monotonic()
    with pytest.raises(Unavailable) as lost:
        await engine.encode(encoder_image(random_bundle.manifest, 1), None)
    assert lost.value.retry_after > 0
    assert time.monotonic() - began < 60  # not a speed: it does not hang
    await engine.close()
