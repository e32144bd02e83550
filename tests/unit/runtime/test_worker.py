"""Cancelled work stops, queued work never starts, and nobody goes on while it still runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from serving.errors import Unavailable
from serving.runtime.graph import Graph
from serving.runtime.tasks import wait_until_done
from serving.runtime.worker import Stop, Worker
from tests.unit.runtime.graphs import ROWS, WIDTH, products


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker("test")
    yield made
    await made.close()


class Job:
    """Runs until it is told to stop, or released."""

    def __init__(self) -> None:
        self.started, self.ended, self.release = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, stop: Stop) -> str:
        self.started.set()
        try:
            while not self.release.is_set():
                stop.check()
                sleep(0.001)
            return "done"
        finally:
            sleep(0.02)  # time for a caller that does not wait to be caught
            self.ended.set()


async def begun(job: Job) -> None:
    assert await asyncio.to_thread(job.started.wait, 5)


async def test_jobs_run_in_order_in_one_thread(worker: Worker) -> None:
    names = await asyncio.gather(*(worker.run(lambda _: threading.current_thread().name) for _ in range(3)))
    assert len(set(names)) == 1
    assert names[0].startswith("test")
    order: list[int] = []
    await asyncio.gather(*(worker.run(lambda _, n=n: order.append(n)) for n in range(5)))
    assert order == [0, 1, 2, 3, 4]


async def test_an_error_reaches_the_caller(worker: Worker) -> None:
    def fails(_: Stop) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await worker.run(fails)
    assert await worker.run(lambda _: 1) == 1


async def test_cancellation_stops_the_job_and_waits_for_its_end(worker: Worker) -> None:
    job = Job()
    call = asyncio.create_task(worker.run(job))
    await begun(job)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert job.ended.is_set()


async def test_a_second_cancellation_changes_nothing(worker: Worker) -> None:
    job = Job()
    call = asyncio.create_task(worker.run(job))
    await begun(job)
    call.cancel()
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert job.ended.is_set()


async def test_a_queued_job_that_is_cancelled_never_starts(worker: Worker) -> None:
    running, queued = Job(), Job()
    first, second = asyncio.create_task(worker.run(running)), asyncio.create_task(worker.run(queued))
    await begun(running)
    second.cancel()
    async with asyncio.timeout(1):  # it does not wait for the one that runs
        await asyncio.gather(second, return_exceptions=True)
    running.release.set()
    assert await first == "done"
    await worker.run(lambda _: None)
    assert not queued.started.is_set()


async def test_close_stops_what_runs_and_what_waits() -> None:
    worker, running, queued = Worker("test"), Job(), Job()
    calls = [asyncio.create_task(worker.run(job)) for job in (running, queued)]
    await begun(running)
    await worker.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, Unavailable]
    assert running.ended.is_set()
    assert not queued.started.is_set()
    with pytest.raises(Unavailable):
        await worker.run(running)
    await worker.close()


async def test_a_graph_stops_in_the_middle_of_its_run(worker: Worker, tmp_path: Path) -> None:
    steps = 2000
    graph = Graph(products(tmp_path / "slow.onnx", steps), ROWS, threads=1)
    x, place = np.ones((WIDTH, WIDTH), np.float32), np.zeros((WIDTH, WIDTH), np.float32)
    for job in (lambda stop: graph.run({"x": x}, stop), lambda stop: graph.run_into({"x": x}, place, stop)):
        started, reached_its_end = threading.Event(), []

        def run(stop: Stop, job=job, started=started, reached_its_end=reached_its_end) -> None:
            started.set()
            job(stop)
            reached_its_end.append(True)

        call = asyncio.create_task(worker.run(run))
        assert await asyncio.to_thread(started.wait, 5)
        await asyncio.sleep(0.02)  # now it computes
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()
        assert not reached_its_end
    assert not place.any()
    (y,) = await worker.run(lambda stop: graph.run({"x": x[:1]}, stop))
    assert np.array_equal(y, x[:1])


async def test_settled_waits_through_cancellations_and_reads_errors() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(wait_until_done(future))
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    future.set_exception(ZeroDivisionError())
    await waiting
