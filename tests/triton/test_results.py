"""Results that no model of ours has: what TritonVision makes of a server that answers wrongly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import np_to_triton_dtype

from demo.triton.server import Triton
from serving.bundle import Bundle
from serving.errors import EngineFault
from tests.scripted.pictures import encoder_image
from tests.triton.harness import SLOTS, Stage, features, stage

Answers = dict[str, np.ndarray]
Harm = Callable[[Answers], object]


@pytest.fixture
async def by_value(random_bundle: Bundle, random_triton: Triton) -> AsyncIterator[Stage]:
    async with stage(random_bundle, random_triton, by_reference=False) as on:
        yield on


def harmed(
    on: Stage, monkeypatch: pytest.MonkeyPatch, harm: Harm, shapes: dict[str, list[int]] | None = None
) -> None:
    """From now on Triton's outputs are ``harm``-ed on their way, and said to have other ``shapes``."""
    infer = on.engine._client._client.infer

    async def answer(*call: object, **options: object) -> InferResult:
        told = await infer(*call, **options)
        outputs = {output.name: told.as_numpy(output.name).copy() for output in told.get_response().outputs}
        harm(outputs)
        return InferResult(message(outputs, shapes or {}))

    monkeypatch.setattr(on.engine._client._client, "infer", answer)


def message(outputs: Answers, shapes: dict[str, list[int]]) -> service_pb2.ModelInferResponse:
    made = service_pb2.ModelInferResponse()
    for name, values in outputs.items():
        shape = shapes.get(name, list(values.shape))
        made.outputs.add(name=name, datatype=np_to_triton_dtype(values.dtype), shape=shape)
        made.raw_output_contents.append(values.tobytes())
    return made


def not_a_number(name: str) -> Harm:
    return lambda outputs: outputs[name].__setitem__((0, 0), np.nan)


def cut(name: str) -> Harm:
    """The last of its numbers is missing, along the last axis."""
    return lambda outputs: outputs.update({name: outputs[name][..., :-1]})


def without(name: str) -> Harm:
    return lambda outputs: outputs.pop(name)


async def test_harmless_answers_are_taken(by_value: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the others here stand on: that the harm alone is refused."""
    lease = await by_value.lease(1)
    before = await by_value.decode(lease, 2)
    harmed(by_value, monkeypatch, lambda outputs: None)
    after = await by_value.decode(lease, 2)
    np.testing.assert_allclose(after.logits, before.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (not_a_number("image_embeddings"), "encoder's result is not finite"),
        (cut("image_embeddings"), "returned"),
        (without("image_embeddings"), "INTERNAL"),
    ],
    ids=["nan", "another shape", "missing"],
)
async def test_an_embedding_that_cannot_be_is_a_fault_and_not_kept(
    by_value: Stage, monkeypatch: pytest.MonkeyPatch, harm: Harm, words: str
) -> None:
    with monkeypatch.context() as while_it_lasts:
        harmed(by_value, while_it_lasts, harm)
        with pytest.raises(EngineFault, match=words):
            await by_value.lease(1)
        assert not by_value.store.holds(encoder_image(by_value.bundle.manifest, 1).key)
        assert by_value.store.stats.nbytes == 0
    lease = await by_value.lease(1)
    assert not lease.hit
    assert np.isfinite(lease.values).all()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (not_a_number("low_res_masks"), "decoder's result is not finite"),
        (not_a_number("score"), "decoder's result is not finite"),
        *((cut(name), "returned") for name in ("low_res_masks", "score", "corrected", "features")),
        *((without(name), "INTERNAL") for name in ("low_res_masks", "score", "corrected", "features")),
    ],
)
async def test_masks_that_cannot_be_are_a_fault(
    by_value: Stage, monkeypatch: pytest.MonkeyPatch, harm: Harm, words: str
) -> None:
    lease = await by_value.lease(1)
    harmed(by_value, monkeypatch, harm)
    with pytest.raises(EngineFault, match=words):
        await by_value.decode(lease, 2)


async def test_an_output_shorter_than_its_shape_is_a_fault(
    by_value: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await by_value.lease(1)
    harmed(by_value, monkeypatch, lambda outputs: None, {"score": [1, 5]})
    with pytest.raises(EngineFault, match="INTERNAL"):
        await by_value.decode(lease, 2)


async def test_an_embedding_in_a_slot_that_is_not_finite_frees_it(
    random_bundle: Bundle, random_triton: Triton, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(random_bundle, random_triton) as on:
        image = encoder_image(random_bundle.manifest, 1)
        infer = on.engine._client.infer

        async def fill(lease: object) -> None:
            async def written(*call: object) -> object:
                outputs = await infer(*call)
                lease.values[3, 2, 1] = np.inf
                return outputs

            monkeypatch.setattr(on.engine._client, "infer", written)
            await on.engine.encode(image, lease)

        with pytest.raises(EngineFault, match="not finite"):
            await on.store.acquire(image.key, fill)
        assert not on.store.holds(image.key)
        assert on.slab is not None
        assert (on.slab.free, on.slab.withheld) == (SLOTS, 0)


async def test_an_embedding_that_is_not_finite_gives_no_masks(
    random_bundle: Bundle, random_triton: Triton
) -> None:
    async with stage(random_bundle, random_triton) as on:

        async def fill(lease: object) -> None:
            lease.values[...] = np.nan

        lease = await on.store.acquire("nan", fill)
        with pytest.raises(EngineFault, match="not finite"):
            await on.engine.decode(lease, features(1), np.zeros(1, np.float32))
