"""Triton harmed: models unloaded, a model's process killed, the server killed; and its other configuration."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from demo.triton.server import Installation, Triton, triton
from loadtest.server_process import LaunchError, free_port
from mediround import Tls
from serving.bundle import Bundle
from serving.errors import Unavailable
from serving.vision.triton import failures
from serving.vision.triton.engine import TritonOptions, TritonVision
from tests.scripted.pictures import encoder_image
from tests.service.certificates import Authority
from tests.triton.harness import MASK_SLOTS, SLOTS, Stage, shared_memory, stage


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
    random_bundle: Bundle, mortal: Triton
) -> None:
    async with stage(random_bundle, mortal) as on:
        lease = await on.lease()
        before = await on.decode(lease)
        await kill_stub(on, mortal)
        sent, waits = [on.engine.counts.bytes_sent], []
        for _ in range(3):
            with pytest.raises(Unavailable, match="has died") as lost:
                await on.decode(lease)
            sent.append(on.engine.counts.bytes_sent)
            waits.append(lost.value.retry_after)
        assert sent[0] < sent[1] == sent[2] == sent[3]  # Triton was asked once
        assert failures.BROKEN_SECONDS == waits[0] > waits[1] > waits[2] > 0
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
    ours = shared_memory()
    port, key = free_port(), "same-key"
    first = triton(random_repository, tmp_path / "1.log", installation=installation, grpc_port=port, admin_key=key)
    with first as server:
        async with stage(random_bundle, server) as on:
            assert on.slab is not None
            lease = await on.lease(1)
            masks = await on.decode(lease)
            assert on.masks is not None
            stubs = server.stubs()
            for stub in stubs:
                os.kill(stub, signal.SIGSTOP)  # lest they are done before the end
            working = [asyncio.create_task(call) for call in (on.lease(2), on.decode(lease, 8))]
            while on.slab.free == SLOTS - 1 or on.masks.free == MASK_SLOTS:  # noqa: ASYNC110  # slabs have no event
                await asyncio.sleep(0)
            await asyncio.sleep(0.1)
            for process in (server.process.pid, *stubs):
                os.kill(process, signal.SIGKILL)
            server.process.wait()
            for call in working:
                with pytest.raises(Unavailable):
                    await call
            assert (on.slab.withheld, on.masks.withheld) == (1, 1)
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
                assert (on.slab.withheld, on.masks.withheld) == (0, 0)
                assert on.engine.counts.decodes_by_value == 0
                assert on.engine.counts.mappings == 4  # two slabs, by each of two servers
                assert (await on.lease(1)).hit
                assert not (await on.lease(2)).hit
        assert shared_memory() == ours
    assert not shared_memory(server, successor) - ours  # of stubs that were killed, by our harness alone


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
            version = (await on.client.get_server_metadata()).version
            assert on.engine.description == f"triton/{version} onnxruntime_onnx"
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
    with pytest.raises(LaunchError, match="Triton ended with"), serving:  # whatever it says on its way out
        pass
    assert "model.onnx is not what the configuration says: ['low_res_masks']" in (tmp_path / "bad.log").read_text()


async def test_it_is_reached_by_mutual_tls_and_not_without_a_certificate(
    random_bundle: Bundle, installation: Installation, random_repository: Path, tmp_path: Path
) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl command to make certificates with")
    authority = Authority.make(tmp_path / "authority")
    certificate, private_key = authority.issue("/CN=triton", "IP:127.0.0.1")
    flags = (
        "--grpc-use-ssl-mutual=1",
        f"--grpc-server-cert={certificate}",
        f"--grpc-server-key={private_key}",
        f"--grpc-root-cert={authority.certificate}",
    )
    with triton(random_repository, tmp_path / "tls.log", flags=flags, installation=installation) as server:
        ours = authority.client("/CN=orchestrator", "DNS:orchestrator")
        for tls, welcome in ((ours, True), (Tls(authority.certificate), False), (None, False)):
            credentials = tls.credentials() if tls else None
            engine = TritonVision(random_bundle, server.address, TritonOptions(), credentials=credentials)
            if welcome:
                await engine.reached()
                assert await anext(engine.availability())
            else:
                with pytest.raises(Unavailable):
                    await engine.encode(encoder_image(random_bundle.manifest, 1), None)
            await engine.close()
