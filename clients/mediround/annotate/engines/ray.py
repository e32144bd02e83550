"""The Ray engine: a run's items on the actors of a Ray cluster, which all reach the job's folder.

Ray distributes; it decides nothing. What is left is a file of its own, written from the ledger before each start,
and actors write parts of the one index: either engine goes on with the other's run. Ray's own checkpoints are not
used. Knows Ray. Does not know how an item is asked.

Guards, each against a way in which Ray Data loses or repeats work: the work begins with a file that is read;
blocks are cut before they are mapped; actors ask for no logical CPU, so that reading never waits for them; nothing
raises for a fault of an item.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mediround.aio import AsyncClient
from mediround.annotate import ledger as ledgers
from mediround.annotate import work
from mediround.annotate.engines.interface import STOPPED_BY_SIGNAL, Progress, RunOptions, Summary, Watch
from mediround.annotate.engines.ray_actor import Annotator
from mediround.annotate.engines.service import ServedRun
from mediround.annotate.errors import AnnotateError, JobError, OtherRun, Stopped
from mediround.annotate.files import remove_unfinished, write_atomic
from mediround.annotate.flow import Breaker
from mediround.annotate.job import Job, Run
from mediround.annotate.ledger import Finished, Ledger
from mediround.annotate.manifest import write_manifest
from mediround.annotate.merging import merge, settle

ITEMS_A_BLOCK = 256
"""Most that an actor is given at once: at the end of each it has few under way."""
_BLOCKS_AN_ACTOR = 4
"""At least, where there are items enough, so that none waits long for the last."""
_IN_FLIGHT_AN_ACTOR = 32
"""One process of Python asks no more at once without loss."""
_LEAST_CPUS = 6
"""Logical, of a cluster of one's own: with fewer, Ray's readers wait for ever."""
_LOOK_SECONDS = 1.0
_LOOPBACK = "127.0.0.1"
_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
_OURS = re.compile(r"^mediround\.(?:\w+\.)*errors\.(\w+): (.+)$", re.MULTILINE)


class RayEngine:
    """Schedules a run's items on a cluster.

    Args:
        address: of a cluster, ``HOST:PORT`` or ``ray://``; None: one of its own on this machine, on loopback.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    def run(self, job: Job, run: Run, options: RunOptions, watch: Watch) -> Summary:
        """As ``Engine.run``."""
        began, shard = time.monotonic(), work.shard_name(options.shard)
        folder = run.shard_index(shard) if shard else run.index
        folder.mkdir(parents=True, exist_ok=True)

        def tidied() -> None:
            settle(folder)
            remove_unfinished(folder)

        with ledgers.opened(run, shard, before=tidied) as ledger:
            seen = _Seen(ledger, work.count(job, options.shard), options, watch)
            left = run.folder / f"ray-{shard or 'all'}.parquet"
            pieces = work.left(job, ledger, options.shard, failed=options.retry_failed)
            count = write_manifest(left, (item for piece in pieces for item in piece))
            try:
                given = {"run": run, "folder": folder}
                stopped = self._distribute(given, options, left, count, seen) if count else ""
                seen.look()
                merge(folder, ledger)
            except OtherRun:
                raise
            except JobError as error:
                raise Stopped(str(error)) from error
            finally:
                left.unlink(missing_ok=True)
            return Summary(seen.progress(0), time.monotonic() - began, stopped, ledger.failures())

    def _distribute(self, given: dict[str, Any], options: RunOptions, left: Path, count: int, seen: _Seen) -> str:
        """Why it ended before all items were finished; empty: it did not."""
        with _cluster(self._address) as nodes:
            asyncio.run(_checked(given["run"], options))  # here, where its errors are whole
            actors = min(options.in_flight, max(nodes, math.ceil(options.in_flight / _IN_FLIGHT_AN_ACTOR)))
            share = replace(
                options,
                in_flight=options.in_flight // actors,
                rate=None if options.rate is None else options.rate / actors,
            )
            flag = left.with_suffix(".stop")
            flag.unlink(missing_ok=True)
            blocks = max(1, min(ITEMS_A_BLOCK, math.ceil(count / (actors * _BLOCKS_AN_ACTOR))))
            mapping = _Mapping(left, blocks, actors, given | {"options": share, "flag": flag})
            try:
                return _supervised(mapping, flag, seen, options)
            finally:
                flag.unlink(missing_ok=True)


class _Seen:
    """What the index says of a run while others write it."""

    def __init__(self, ledger: Ledger, total: int, options: RunOptions, watch: Watch) -> None:
        self._ledger, self._total, self._options, self._watch = ledger, total, options, watch
        self._before = ledger.totals()
        self._rounds_before = ledger.rounds()
        self._now = self._before
        self._breaker = Breaker(options.max_failures, options.max_failure_share)

    def look(self) -> str:
        """Take up new parts; why the run must be given up, or empty."""
        former = self._now
        self._ledger.take_up()
        self._now = self._ledger.totals()
        self._watch(self.progress(self._options.in_flight))
        why = ""
        for failed, number in ((False, self._now.ok - former.ok), (True, self._now.failed - former.failed)):
            for _ in range(max(0, number)):
                why = why or self._breaker.count(failed=failed)
        return why

    def progress(self, in_flight: int) -> Progress:
        """``in_flight``: what may be; nobody counts it."""
        now: Finished = self._now
        left = self._total - now.all
        return Progress(
            total=self._total,
            done=now.all,
            failed=now.failed,
            here=now.all - self._before.all,
            in_flight=min(in_flight, left),
            rounds=self._ledger.rounds() - self._rounds_before,
        )


class _Mapping(threading.Thread):
    """The work, given to Ray; what it raised."""

    def __init__(self, left: Path, rows: int, actors: int, given: dict[str, Any]) -> None:
        super().__init__(name="ray", daemon=True)
        self._left, self._rows, self._actors, self._given = left, rows, actors, given
        self.error: BaseException | None = None

    def run(self) -> None:
        import ray.data  # noqa: PLC0415  # takes a second, and needs its environment set before

        try:
            ray.data.DataContext.get_current().enable_progress_bars = False
            done = (
                ray.data.read_parquet(str(self._left))
                .repartition(target_num_rows_per_block=self._rows)
                .map_batches(
                    Annotator,
                    batch_size=None,
                    batch_format="pyarrow",
                    compute=ray.data.ActorPoolStrategy(size=self._actors),
                    num_cpus=0,
                    fn_constructor_kwargs=self._given,
                )
            )
            for _ in done.iter_batches(batch_size=None, batch_format="pyarrow"):
                pass
        except BaseException as error:  # told to who waits for it
            self.error = error


def _supervised(mapping: _Mapping, flag: Path, seen: _Seen, options: RunOptions) -> str:
    """Look at the index until the work is done; on a stop, let what is under way finish for the grace."""
    why = ""
    until = math.inf
    with _signals() as asked:
        mapping.start()
        while mapping.is_alive() and time.monotonic() < until:
            began = time.monotonic()
            given_up = asked() or seen.look()
            if given_up and not why:
                why, until = given_up, time.monotonic() + options.grace
                write_atomic(flag, b"")
            # Of a large index, looking takes long: it gets a tenth of the time.
            mapping.join(max(_LOOK_SECONDS, 10 * (time.monotonic() - began)))
    if mapping.error is not None and not why:
        raise _ours(mapping.error) from mapping.error
    return why


def _ours(error: BaseException) -> AnnotateError:
    """What an actor raised, read from what Ray makes of it."""
    kind, words = ("", "") if (found := _OURS.search(str(error))) is None else found.groups()
    if kind == OtherRun.__name__:
        return OtherRun(words)
    ours = words or f"Ray gave the run up ({type(error).__name__}): its own log says why"
    return JobError(f"{ours}; what is finished stays")


async def _checked(run: Run, options: RunOptions) -> None:
    """As ``ServedRun.begin``."""
    async with AsyncClient(options.server, tls=options.tls, retries=0) as client:
        await ServedRun(client, run).begin()


@contextmanager
def _signals() -> Iterator[Callable[[], str]]:
    """Why a signal asked the run to stop; empty: none did. Where no handler can be set, signals do what they
    did.
    """
    came: list[int] = []
    former = {}
    for each in (signal.SIGTERM, signal.SIGINT):
        try:
            former[each] = signal.signal(each, lambda number, _: came.append(number))
        except ValueError:  # not the main thread
            continue
    try:
        yield lambda: STOPPED_BY_SIGNAL if came else ""
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


@contextmanager
def _cluster(address: str | None) -> Iterator[int]:
    """How many nodes there are. A cluster that this process is connected to already is used, and left."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no report of ours leaves the site
    try:
        import ray  # noqa: PLC0415  # reads its environment when it is imported
    except ModuleNotFoundError as error:
        words = "in the repository, pip install './clients[annotate,ray]'"
        raise AnnotateError(f"--engine ray needs the package ray: {words}") from error

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ours = not ray.is_initialized()
    if ours:
        if address is None:
            cpus = max(_LEAST_CPUS, os.cpu_count() or 1)
            ray.init("local", num_cpus=cpus, include_dashboard=False, _node_ip_address=_LOOPBACK, **_QUIET)
        else:
            ray.init(address, **_QUIET)
    try:
        yield sum(bool(node["Alive"]) for node in ray.nodes())
    finally:
        if ours:
            ray.shutdown()
        sys.stdout.flush()
