"""A real Redis, emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from tests.scripted import redis
from tests.unit.serving.in_redis import Place


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Running]:
    with redis.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as made:
        yield made


@pytest.fixture
def place(running: redis.Running, executor: Executor) -> Place:
    running.client.flushall()
    return Place(running, executor)
