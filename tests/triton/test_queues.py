"""Triton's queues under TritonVision: batches, priorities, limits, and who gives up."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest

from demo.triton.server import Triton
from serving import request_context
from serving.bundle import Bundle
from serving.domain import Priority
from serving.errors import DeadlineExceeded, Exhausted, Unavailable
from tests.triton.harness import MASK_SLOTS, SLOTS, Stage, stage


async def test_batches_form(random_bundle: Bundle, random_triton: Triton) -> None:
    """Of requests with equally many features: of some with one and some with three, each gets its own masks."""
    with request_context.prioritised(Priority.BATCH):  # waits longer than a busy machine takes
        async with stage(random_bundle, random_triton, patience=90.0) as on:
            lease = await on.lease()
            alone = {count: await on.decode(lease, count) for count in (1, 3)}
            for counts in ([1] * 24, [1, 3] * 6):
                before = await on.counted()
                together = await asyncio.gather(*(on.decode(lease, count) for count in counts))
                for count, decoded in zip(counts, together, strict=True):
                    np.testing.assert_allclose(decoded.logits, alone[count].logits, rtol=0, atol=1e-4)
                done = (await on.counted()).since(before)
                assert done.requests == len(counts)
                if len(set(counts)) == 1:
                    assert done.runs < 24
                    assert 1 < max(done.sizes) <= 8


async def test_a_full_queue_is_exhausted_and_passes(random_bundle: Bundle, random_triton: Triton) -> None:
    """Of requests that may wait a minute: on a busy host an interactive one is over time in the queue before."""
    async with stage(random_bundle, random_triton, patience=90.0) as on:
        lease = await on.lease()
        with request_context.prioritised(Priority.BATCH):
            asked = [asyncio.create_task(on.decode(lease)) for _ in range(160)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert refused
        assert {type(error) for error in refused} == {Exhausted}
        assert all(isinstance(error, Exhausted) and error.retry_after > 0 for error in refused)
        assert len(refused) < 160
        assert np.isfinite((await on.decode(lease)).logits).all()


async def test_a_person_who_waits_goes_before_dialogues_known_in_advance(
    random_bundle: Bundle, random_triton: Triton
) -> None:
    """Of 17 encodes that queue, two a batch at most, the one that came last."""
    ended: list[Priority] = []

    async def encode(on: Stage, seed: int, claimed: Priority) -> None:
        with request_context.prioritised(claimed):
            await on.lease(seed)
        ended.append(claimed)

    async with stage(random_bundle, random_triton, by_reference=False, patience=90.0, places=17) as on:
        await on.engine.reached()
        async with asyncio.TaskGroup() as group:
            for seed in range(16):
                group.create_task(encode(on, 100 + seed, Priority.BATCH))
            group.create_task(encode(on, 200, Priority.INTERACTIVE))
        assert ended.index(Priority.INTERACTIVE) < 12
        assert len(ended) == 17


async def test_a_deadline_ends_a_request_by_value(random_bundle: Bundle, random_triton: Triton) -> None:
    """Also one that Triton works on: nobody waits for its reply."""
    async with stage(random_bundle, random_triton, by_reference=False) as on:
        await on.engine.reached()
        with pytest.raises((DeadlineExceeded, Unavailable)):  # the client's clock, or Triton's, as it happens
            await on.lease(11, seconds=0.02)
        assert (await on.lease(11)).hit is False


async def test_triton_refuses_who_waits_too_long_in_its_queue(
    random_bundle: Bundle, random_triton: Triton
) -> None:
    """By reference, where only Triton's reply ends a request: so its slot is free at once."""
    with request_context.prioritised(Priority.BATCH):  # all: a busy machine is slow
        async with (
            stage(random_bundle, random_triton, by_reference=False, patience=90.0) as many,
            stage(random_bundle, random_triton) as on,
        ):
            await many.engine.reached()
            await on.engine.reached()
            queued = [asyncio.create_task(many.lease(300 + seed)) for seed in range(12)]
            while many.engine.counts.encodes == 0:  # noqa: ASYNC110  # an engine has no event
                await asyncio.sleep(0.001)
            with pytest.raises(Unavailable, match="did not begin") as refused:
                await on.lease(12, seconds=0.05)
            assert refused.value.retry_after > 0
            assert on.slab is not None
            assert (on.slab.free, on.slab.withheld) == (SLOTS, 0)
            await asyncio.gather(*queued)


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


@pytest.mark.parametrize("decodes", [False, True], ids=["encode", "decode"])
async def test_cancelled_by_reference_is_free_when_triton_replied(
    random_bundle: Bundle, random_triton: Triton, monkeypatch: pytest.MonkeyPatch, decodes: bool
) -> None:
    async with stage(random_bundle, random_triton) as on:
        lease = await on.lease(20)
        slab, before = (on.masks, MASK_SLOTS) if decodes else (on.slab, SLOTS - 1)
        assert slab is not None
        assert slab.free == before
        replied: list[str] = []
        infer = on.engine._client.infer

        async def heard(*call: object) -> object:
            outputs = await infer(*call)
            replied.append("all of it")
            return outputs

        monkeypatch.setattr(on.engine._client, "infer", heard)
        call = asyncio.create_task(on.decode(lease, 8) if decodes else on.lease(21))
        while slab.free == before:  # noqa: ASYNC110  # a slab has no event
            await asyncio.sleep(0)
        await asyncio.sleep(0.005)  # on its way
        call.cancel()
        await asyncio.sleep(0)
        assert replied or slab.free == before - 1
        with pytest.raises(asyncio.CancelledError):
            await call
        assert replied
        assert (slab.free, slab.withheld) == (before, 0)
        slot = slab.take()
        assert slot is not None
        slot.values[...] = 7
        await asyncio.sleep(0.3)
        assert (slot.values == 7).all()
        slab.give_back(slot)
