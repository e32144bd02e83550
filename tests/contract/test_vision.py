"""What every VisionEngine does, whoever computes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from demo.triton.server import Triton
from serving.bundle import IMAGE_ENCODER, Bundle, Manifest
from serving.domain import F32, NO_CORRECTION
from serving.errors import Unavailable
from serving.ports import EmbeddingLease, VisionEngine
from serving.runtime.slab import Slab, Slot
from serving.vision.interface import encoder_interface
from serving.vision.onnx import OnnxVision
from serving.vision.openvino import OpenVinoEncoder
from serving.vision.triton.engine import TritonOptions, TritonVision, mask_slab
from tests.scripted.pictures import encoder_image
from tests.scripted.vision import ScriptedVision
from tests.unit.serving.manifests import manifest as made_up

TOLERANCE = 1e-4
ALWAYS = 1.0
"""Threshold that every score stays under."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A lease without a store."""

    key: str
    values: F32
    hit: bool = False
    slot: Slot | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    engine: VisionEngine
    manifest: Manifest
    slab: Slab | None = None
    masks: Slab | None = None

    def place(self, key: str = "place") -> Place:
        image = self.manifest.image
        if self.slab is None:
            return Place(key, np.full(image.embedding, np.nan, image.embedding_dtype))
        slot = self.slab.take()
        assert slot is not None
        slot.values[...] = np.nan
        return Place(key, slot.values, slot=slot)

    async def encoded(self, seed: int = 1) -> EmbeddingLease:
        place = self.place()
        await self.engine.encode(encoder_image(self.manifest, seed), place)
        return place

    def features(self, count: int) -> F32:
        draw = np.random.default_rng(count)
        return draw.standard_normal((count, self.manifest.language.feature), np.float32)


@pytest.fixture(params=["onnx", "openvino", "scripted", "triton by value", "triton by reference"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    made = _subject(request)
    yield made
    await made.engine.close()
    for slab in filter(None, (made.slab, made.masks)):
        slab.close()


def _subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "scripted":
        return Subject(ScriptedVision(made_up()), made_up())
    bundle: Bundle = request.getfixturevalue("random_bundle")
    if request.param == "onnx":
        return Subject(OnnxVision(bundle, threads=1), bundle.manifest)
    if request.param == "openvino":
        interface = encoder_interface(bundle.manifest.image)
        encoder = OpenVinoEncoder(bundle.path(IMAGE_ENCODER), interface, 1, "f32")
        return Subject(OnnxVision(bundle, threads=1, encoder=encoder), bundle.manifest)
    server: Triton = request.getfixturevalue("random_triton")
    options = TritonOptions(admin_key=server.admin_key)
    if request.param == "triton by value":
        return Subject(TritonVision(bundle, server.address, options), bundle.manifest)
    image = bundle.manifest.image
    slab, masks = Slab(8, image.embedding, image.embedding_dtype), mask_slab(bundle, 4)
    engine = TritonVision(bundle, server.address, options, embeddings=slab, masks=masks)
    return Subject(engine, bundle.manifest, slab, masks)


def limits(*thresholds: float) -> F32:
    return np.array(thresholds, np.float32)


async def test_the_embedding_is_written_where_the_lease_points(subject: Subject) -> None:
    first, second = await subject.encoded(1), await subject.encoded(1)
    assert np.isfinite(first.values).all()
    assert np.array_equal(first.values, second.values)
    assert not np.allclose(first.values, (await subject.encoded(2)).values, atol=1e-3)


async def test_the_valid_size_counts(subject: Subject) -> None:
    side = subject.manifest.image.side
    part = encoder_image(subject.manifest, 1, (side // 2, side))
    whole = replace(part, key="whole", valid_hw=(side, side))
    places = subject.place(), subject.place()
    await subject.engine.encode(part, places[0])
    await subject.engine.encode(whole, places[1])
    assert not np.allclose(places[0].values, places[1].values, atol=1e-3)


async def test_shapes_and_types(subject: Subject) -> None:
    features = subject.features(3)
    decoded = await subject.engine.decode(await subject.encoded(), features, limits(0.5, 0.5, 0.5))
    side = subject.manifest.image.logits_side
    assert (decoded.logits.shape, decoded.logits.dtype) == ((3, side, side), np.float32)
    assert (decoded.scores.shape, decoded.scores.dtype) == ((3,), np.float32)
    assert (decoded.corrected.shape, decoded.corrected.dtype) == ((3,), np.bool_)
    assert (decoded.features.shape, decoded.features.dtype) == (features.shape, np.float32)
    assert np.isfinite(decoded.logits).all()
    assert ((decoded.scores > 0) & (decoded.scores < 1)).all()


async def test_a_batch_decodes_what_each_decodes_alone(subject: Subject) -> None:
    lease, features, thresholds = await subject.encoded(), subject.features(3), limits(ALWAYS, NO_CORRECTION, 0.5)
    batch = await subject.engine.decode(lease, features, thresholds)
    for k in range(3):
        alone = await subject.engine.decode(lease, features[k : k + 1], thresholds[k : k + 1])
        np.testing.assert_allclose(batch.logits[k], alone.logits[0], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(batch.scores[k], alone.scores[0], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(batch.features[k], alone.features[0], rtol=0, atol=TOLERANCE)
        assert batch.corrected[k] == alone.corrected[0]


async def test_thresholds_decide_one_by_one(subject: Subject) -> None:
    lease, features = await subject.encoded(), np.repeat(subject.features(1), 2, axis=0)
    mixed = await subject.engine.decode(lease, features, limits(NO_CORRECTION, ALWAYS))
    assert mixed.corrected.tolist() == [False, True]
    assert np.array_equal(mixed.features[0], features[0])
    assert np.abs(mixed.features[1] - features[1]).max() > 1e-3
    assert mixed.scores[0] == pytest.approx(mixed.scores[1], abs=TOLERANCE)
    assert not np.allclose(mixed.logits[0], mixed.logits[1], atol=1e-6)


async def test_a_threshold_beside_the_score(subject: Subject) -> None:
    lease, features = await subject.encoded(), subject.features(1)
    score = float((await subject.engine.decode(lease, features, limits(NO_CORRECTION))).scores[0])
    for threshold, expected in ((score - 1e-3, False), (score + 1e-3, True)):
        decoded = await subject.engine.decode(lease, features, limits(threshold))
        assert decoded.corrected.tolist() == [expected]


async def test_the_image_and_the_feature_count(subject: Subject) -> None:
    lease, other, off = await subject.encoded(1), await subject.encoded(2), limits(NO_CORRECTION)
    features = subject.features(2)
    masks = [
        (await subject.engine.decode(place, feature[np.newaxis], off)).logits
        for place, feature in ((lease, features[0]), (other, features[0]), (lease, features[1]))
    ]
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


async def test_decoding_leaves_embedding_and_features_alone(subject: Subject) -> None:
    lease, features = await subject.encoded(), subject.features(2)
    before, kept = lease.values.copy(), features.copy()
    lease.values.flags.writeable = False
    await subject.engine.decode(lease, features, limits(ALWAYS, ALWAYS))
    assert np.array_equal(lease.values, before)
    assert np.array_equal(features, kept)


async def test_nothing_writes_after_a_cancelled_encode(subject: Subject) -> None:
    image, place = encoder_image(subject.manifest, 1), subject.place()
    call = asyncio.create_task(subject.engine.encode(image, place))
    await asyncio.sleep(0.002)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    place.values[...] = 7
    await asyncio.sleep(0.05)
    assert (place.values == 7).all()
    await subject.engine.encode(image, place)
    assert np.array_equal(place.values, (await subject.encoded(1)).values)


async def test_interleaved_calls(subject: Subject) -> None:
    async def masks(seed: int) -> np.ndarray:
        lease = await subject.encoded(seed)
        return (await subject.engine.decode(lease, subject.features(1), limits(NO_CORRECTION))).logits

    one_by_one = [await masks(seed) for seed in (1, 2, 3)]
    together = await asyncio.gather(*(masks(seed) for seed in (1, 2, 3)))
    for expected, actual in zip(one_by_one, together, strict=True):
        np.testing.assert_allclose(expected, actual, rtol=0, atol=TOLERANCE)


async def test_a_closed_engine_says_so(subject: Subject) -> None:
    lease = await subject.encoded()
    await subject.engine.close()
    await subject.engine.close()
    with pytest.raises(Unavailable):
        await subject.engine.decode(lease, subject.features(1), limits(0.5))
    with pytest.raises(Unavailable):
        await subject.engine.encode(encoder_image(subject.manifest, 1), subject.place())


async def test_it_describes_itself(subject: Subject) -> None:
    assert "/" in subject.engine.description
    record = await subject.engine.encode(encoder_image(subject.manifest, 1), subject.place())
    assert record == subject.engine.encoder
    assert record.engine
    assert record.version
    assert subject.engine.decoder.version
