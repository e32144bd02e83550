"""A server on a free port of this machine, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from loadtest import server_process
from mediround import AsyncClient
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.api.server import Server, serving
from tests.service.either import Awaited, Blocking, Either, Make
from tests.service.harness import Stage
from tests.service.harness import stage as build_stage


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def stage(executor: Executor) -> Stage:
    return build_stage(executor)


@pytest.fixture
async def server(stage: Stage) -> AsyncIterator[Server]:
    async with serving(stage.service, observer=stage.observer) as running:
        yield running


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, timeout=20, retries=0) as connected:
        yield connected


@pytest.fixture
async def stub(server: Server) -> AsyncIterator[SegmentationServiceStub]:
    """The bare stub, for requests that the client would not make."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield SegmentationServiceStub(channel)


@pytest.fixture
def free_port() -> int:
    """A port of this machine on which nothing listens."""
    return server_process.free_port()


@pytest.fixture(params=[Blocking, Awaited], ids=["blocking", "asyncio"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes clients of one kind, and closes them."""
    made: list[Either] = []

    def one(address: str, **options: Any) -> Either:
        made.append(request.param(address, **options))
        return made[-1]

    yield one
    for each in made:
        await each.close()
