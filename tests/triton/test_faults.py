"""Triton harmed: models unloaded, a model's process killed, the server killed; and its other configuration."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from demo.triton.server import Installation, Triton, triton
from loadtest.launch import LaunchError, free_port
from serving.bundle import Bundle
from serving.errors import Unavailable
from serving.vision.triton import failures
from tests.triton.stage import SLOTS, Stage, shared_memory, stage


@pytest.fixture(scope="module")
def mortal(
    installation: Installation, random_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    """For all tests here that leave it whole."""
    log = tmp_path_factory.mktemp("mortal") / "triton.log"
    with triton(random_repository, log, installation=installation) as server:
        yield server


async def test_an_unloaded_model_is_unavailable_until_it_is_loaded(random_bundle: Bundle, mortal: Triton) -> None:
    async with stage(random_bundle, mortal) as on:
        lease = await on.lease()
        before = await on.decode(lease)
        availability = on.engine.availability()
        assert await anext(availability)
        await on.unload("mask_decoder")
        assert not await anext(availability)
        with pytest.raises(Unavailable) as lost:
            await on.decode(lease)
        assert lost.value.retry_after > 0
        await on.load("mask_decoder")
        assert await anext(availability)
        await availability.aclose()
        after = await on.decode(lease)
        assert np.array_equal(before.logits, after.logits)


async def test_a_dead_process_of_a_model_is_told_once_and_not_asked_again(
    random_bundle: Bundle, mortal: Triton, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(random_bundle, mortal) as on:
        lease = await on.lease()
        before = await on.decode(lease)
        await kill_stub(on, mortal)
        asked = on.engine.counts.decodes
        for _ in range(3):
            with pytest.raises(Unavailable, match="has died") as lost:
                await on.decode(lease)
            assert 0 < lost.value.retry_after <= failures.BROKEN_SECONDS
        assert on.engine.counts.decodes == asked
        await on.unload("mask_decoder")
        await on.load("mask_decoder")
        on.engine._link._broken.clear()  # instead of waiting
        assert np.array_equal(before.logits, (await on.decode(lease)).logits)


async def kill_stub(on: Stage, server: Triton) -> None:
    """The decoder's: the one that appears when it is loaded."""
    others = set(server.stubs())
    await on.unload("mask_decoder")
    others &= set(server.stubs())
    await on.load("mask_decoder")
    (stub,) = set(server.stubs()) - others
    os.kill(stub, signal.SIGKILL)


async def test_a_killed_server_that_comes_back_finds_every_embedding(
    random_bundle: Bundle, installation: Installation, random_repository: Path, tmp_path: Path
) -> None:
    before = shared_memory()
    port, key = free_port(), "same-key"
    first = triton(random_repository, tmp_path / "1.log", installation=installation, grpc_port=port, admin_key=key)
    with first as server:
        async with stage(random_bundle, server) as on:
            assert on.slab is not None
            lease = await on.lease(1)
            masks = await on.decode(lease)
            encoding = asyncio.create_task(on.lease(2))
            while on.slab.free == SLOTS - 1:  # noqa: ASYNC110  # a slab has no event
                await asyncio.sleep(0)
            await asyncio.sleep(0.02)
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
            with pytest.raises(Unavailable):
                await encoding
            assert on.slab.withheld == 1
            for call in (on.decode(lease), on.lease(3)):
                with pytest.raises(Unavailable) as lost:
                    await call
                assert lost.value.retry_after > 0
            second = triton(
                random_repository, tmp_path / "2.log", installation=installation, grpc_port=port, admin_key=key
            )
            with second as successor:
                again = await until_served(on, lease)
                assert np.array_equal(masks.logits, again.logits)
                assert (on.slab.withheld, on.engine.counts.decodes_by_value) == (0, 0)
                assert on.engine.counts.mappings == 4  # two slabs, by each of two servers
                assert (await on.lease(1)).hit
                assert not (await on.lease(2)).hit
    assert shared_memory(server, successor) <= before


async def until_served(on: Stage, lease: object) -> object:
    deadline = time.monotonic() + 30
    while True:
        try:
            return await on.decode(lease)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def test_the_cpu_configurations_serve_the_same(
    random_bundle: Bundle, installation: Installation, random_repository: Path, tmp_path: Path
) -> None:
    flags = ("--model-config-name=cpu",)
    with triton(random_repository, tmp_path / "cpu.log", flags=flags, installation=installation) as server:
        async with stage(random_bundle, server) as on:
            await on.engine.reached()
            assert on.engine.description == "triton/2.51.0 onnxruntime_onnx"
            assert np.isfinite((await on.decode(await on.lease())).logits).all()


def test_a_graph_that_is_not_what_the_configuration_says_ends_the_server(
    installation: Installation, random_repository: Path, tmp_path: Path
) -> None:
    for model in ("image_encoder", "mask_decoder"):
        (tmp_path / "repository" / model / "1").mkdir(parents=True)
        config = (random_repository / model / "config.pbtxt").read_text().replace("256, 256", "128, 128")
        (tmp_path / "repository" / model / "config.pbtxt").write_text(config)
        (tmp_path / "repository" / model / "1" / "model.onnx").hardlink_to(
            random_repository / model / "1" / "model.onnx"
        )
    serving = triton(tmp_path / "repository", tmp_path / "bad.log", installation=installation)
    with pytest.raises(LaunchError, match="failed to load all models"), serving:
        pass
    assert "model.onnx is not what the configuration says: ['low_res_masks']" in (tmp_path / "bad.log").read_text()
