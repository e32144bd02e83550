"""What the ONNX vision engine counts, stops and refuses beyond its contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from serving.bundle import Bundle, BundleError
from serving.domain import F32
from serving.errors import EngineFault
from serving.runtime.graph import Graph
from serving.runtime.worker import Stop
from serving.stores.embeddings import MemoryEmbeddings
from serving.vision.onnx import LARGEST_DECODE, OnnxVision, VisionCounts
from tests.scripted.pictures import encoder_image


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    values: F32
    key: str = "place"
    hit: bool = False
    slot: None = None


@pytest.fixture
async def engine(random_bundle: Bundle) -> AsyncIterator[OnnxVision]:
    made = OnnxVision(random_bundle, threads=1)
    yield made
    await made.close()


def place(bundle: Bundle) -> Place:
    return Place(np.zeros(bundle.manifest.image.embedding, np.float32))


async def test_it_counts(engine: OnnxVision, random_bundle: Bundle) -> None:
    lease = place(random_bundle)
    await engine.encode(encoder_image(random_bundle.manifest, 1), lease)
    features = np.ones((3, random_bundle.manifest.language.feature), np.float32)
    for count in (1, 3):
        await engine.decode(lease, features[:count], np.zeros(count, np.float32))
    assert engine.counts == VisionCounts(encodes=1, decodes=2, masks=4)


async def test_a_large_batch_is_decoded_in_parts_as_each_mask_alone(
    engine: OnnxVision, random_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What onnxruntime takes for its largest run it keeps: a dialogue of 32 rounds must not decide that."""
    runs, run = [], Graph.run

    def counted(graph: Graph, feeds: Mapping[str, np.ndarray], stop: Stop) -> tuple[np.ndarray, ...]:
        runs.append(feeds["seg_features"].shape[1])
        return run(graph, feeds, stop)

    monkeypatch.setattr(Graph, "run", counted)
    lease, count = place(random_bundle), 2 * LARGEST_DECODE + 1
    await engine.encode(encoder_image(random_bundle.manifest, 1), lease)
    features = np.random.default_rng(0).normal(size=(count, random_bundle.manifest.language.feature))
    features, thresholds = features.astype(np.float32), np.linspace(0, 1, count, dtype=np.float32)
    together = await engine.decode(lease, features, thresholds)
    assert runs == [LARGEST_DECODE, LARGEST_DECODE, 1]
    for k in range(count):
        alone = await engine.decode(lease, features[k : k + 1], thresholds[k : k + 1])
        np.testing.assert_allclose(together.logits[k], alone.logits[0], atol=1e-3)
        np.testing.assert_allclose(together.scores[k], alone.scores[0], atol=1e-5)
        assert together.corrected[k] == alone.corrected[0]


async def test_the_embedding_is_written_without_a_copy(engine: OnnxVision, random_bundle: Bundle) -> None:
    """Straight into one slot of a block; its neighbours stay as they are."""
    block = np.zeros((3, *random_bundle.manifest.image.embedding), np.float32)
    await engine.encode(encoder_image(random_bundle.manifest, 1), Place(block[1]))
    assert block[1].any()
    assert not block[[0, 2]].any()


async def test_a_queued_encode_that_is_cancelled_writes_nothing(engine: OnnxVision, random_bundle: Bundle) -> None:
    places = [place(random_bundle) for _ in range(2)]
    image = encoder_image(random_bundle.manifest, 1)
    calls = [asyncio.create_task(engine.encode(image, each)) for each in places]
    await asyncio.sleep(0)
    calls[1].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert places[0].values.any()
    assert not places[1].values.any()
    assert engine.counts.encodes == 1


async def test_a_decode_does_not_wait_for_encodes(engine: OnnxVision, random_bundle: Bundle) -> None:
    image, known = encoder_image(random_bundle.manifest, 1), place(random_bundle)
    await engine.encode(image, known)
    encodes = [asyncio.create_task(engine.encode(image, place(random_bundle))) for _ in range(3)]
    await asyncio.sleep(0)
    features = np.ones((1, random_bundle.manifest.language.feature), np.float32)
    await engine.decode(known, features, np.zeros(1, np.float32))
    assert not encodes[-1].done()
    await asyncio.gather(*encodes)


async def test_an_embedding_that_is_not_finite_is_our_fault(engine: OnnxVision, random_bundle: Bundle) -> None:
    lease = place(random_bundle)
    lease.values[...] = np.nan
    features = np.ones((1, random_bundle.manifest.language.feature), np.float32)
    with pytest.raises(EngineFault, match="not finite"):
        await engine.decode(lease, features, np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("section", "update", "words"),
    [
        ("image", {"side": 99}, "input image_u8 is uint8"),
        ("image", {"embedding": (1, 64, 64)}, "output image_embeddings is float32"),
        ("image", {"embedding_dtype": "float16"}, "output image_embeddings is float32"),
        ("image", {"logits_side": 99}, "output low_res_masks is float32"),
        ("language", {"feature": 99}, "input seg_features is float32"),
    ],
)
def test_a_manifest_that_says_otherwise_is_refused(
    random_bundle: Bundle, section: str, update: dict[str, object], words: str
) -> None:
    manifest = random_bundle.manifest
    wrong = getattr(manifest, section).model_copy(update=update)
    bundle = replace(random_bundle, manifest=manifest.model_copy(update={section: wrong}))
    with pytest.raises(BundleError, match=f"does not fit the manifest: .*{words}"):
        OnnxVision(bundle, threads=1)


class Overflown:
    """An image encoder whose numbers are too large."""

    description = "made up"

    def run_into(self, feeds: Mapping[str, np.ndarray], out: np.ndarray, stop: Stop) -> None:
        out[...] = 0.0
        out[0, 0, 3, 5] = np.inf


async def test_an_embedding_that_is_not_finite_is_not_kept(random_bundle: Bundle) -> None:
    image = encoder_image(random_bundle.manifest, 1)
    spec = random_bundle.manifest.image
    store = MemoryEmbeddings.of(spec, 1 << 26)
    engine = OnnxVision(random_bundle, threads=1, encoder=Overflown())
    with pytest.raises(EngineFault, match="image encoder's result is not finite"):
        await store.acquire(image.key, lambda lease: engine.encode(image, lease))
    assert not store.holds(image.key)
    await engine.close()
