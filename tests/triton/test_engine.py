"""TritonVision on a real Triton that nobody harms: what it computes and moves, and refusals at the start."""

from __future__ import annotations

import asyncio
import logging
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest

from demo.triton.server import Triton
from serving.bundle import IMAGE_ENCODER, Bundle, BundleError
from serving.errors import EngineFault, Unavailable
from serving.runtime.record import RuntimeRecord
from serving.runtime.slab import Slab, SlabError
from serving.vision.onnx import OnnxVision
from serving.vision.triton.engine import TritonOptions, TritonVision
from tests.scripted.pictures import encoder_image
from tests.triton.harness import features, stage


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
        version = (await on.client.get_server_metadata()).version
        assert on.engine.description == f"triton/{version} tensorrt_plan"
        assert on.engine.encoder == on.engine.decoder == RuntimeRecord("triton", version, "tensorrt_plan")


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
        assert on.engine.counts.decodes == 5  # four features each
    await onnx.close()


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
    with pytest.raises(Unavailable) as lost:
        await engine.encode(encoder_image(random_bundle.manifest, 1), None)
    assert lost.value.retry_after > 0
    await engine.close()


@pytest.mark.parametrize("api", ["systemsharedmemory/status", "repository/index"])
def test_the_http_door_wants_the_admin_key_as_well(random_triton: Triton, api: str) -> None:
    url = f"http://127.0.0.1:{random_triton.http_port}/v2/{api}"
    method = "POST" if api == "repository/index" else "GET"
    asked = urllib.request.Request(url, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=10)  # noqa: S310  # a loopback address of ours
    assert refused.value.code == 403
    refused.value.close()
    asked.add_header("admin-key", random_triton.admin_key)
    with urllib.request.urlopen(asked, timeout=10) as reply:  # noqa: S310  # as above
        assert reply.status == 200
