"""A local run that ends before its items do: by a signal, with its service, on a full disk, while reads stall."""

import asyncio
import os
import signal
import threading
from concurrent.futures import Future

import pytest

from mediround.annotate.engines import local as module
from mediround.annotate.engines.interface import Progress
from mediround.annotate.engines.local import LocalEngine
from mediround.annotate.engines.service import ServedRun
from mediround.annotate.errors import Stopped
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.loading import LoadedItem, load
from mediround.testing import Answer, AskedQuestion, Script, ScriptedServer, serve
from tests.unit.client.annotate import test_local_engine as local
from tests.unit.client.annotate.jobs import fill_disk

found, options, watch, ITEMS = local.found, local.options, local.watch, local.ITEMS
job, run, server = local.job, local.run, local.server  # fixtures
BY_SIGNAL = "a signal asked it to stop"


def test_a_run_that_waits_for_the_service_ends_at_once_when_it_is_stopped(
    server: ScriptedServer, job: Job, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: ServedRun) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    monkeypatch.setattr(ServedRun, "begin", never)
    summary = LocalEngine().run(job, run, options(server, run), watch)
    assert (summary.stopped, summary.progress.here) == (BY_SIGNAL, 0)


def test_a_service_that_ended_for_good_ends_the_run_with_its_words(job: Job, run: Run) -> None:
    ended: Future[str] = Future()

    def once(asked: AskedQuestion) -> Answer:
        if asked.width == 20 and not ended.done():
            ended.set_result("the service ended: killed")
        return Answer(lost=ended.done())

    with serve(Script(once)) as server, pytest.raises(Stopped, match="the service ended: killed"):
        LocalEngine(ended).run(job, run, options(server, run), watch)
    assert 0 < len({row.item_id for row in found(run)}) < ITEMS


def test_a_disk_that_is_full_ends_the_run(
    server: ScriptedServer, job: Job, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch)
    with pytest.raises(Stopped, match="the disk is full"):
        LocalEngine().run(job, run, options(server, run), watch)


def test_reads_that_stall_hold_up_neither_others_nor_the_end(
    server: ScriptedServer, job: Job, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, lock = threading.Event(), threading.Lock()
    begun: list[Item] = []
    told: list[Progress] = []

    def stalls(item: Item) -> LoadedItem:
        with lock:
            begun.append(item)
            number = len(begun)
        if number <= 20:
            released.wait()
        return load(item)

    def stop(progress: Progress) -> None:
        if progress.here == 10 and not told:
            told.append(progress)  # once: when the run has ended, nobody takes the signal
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(module, "load", stalls)
    try:
        summary = LocalEngine().run(job, run, options(server, run, in_flight=ITEMS, grace=0.1), stop)
    finally:
        released.set()
    assert (summary.stopped, summary.progress.here) == (BY_SIGNAL, 10)
    assert len({row.item_id for row in found(run)}) == 10
