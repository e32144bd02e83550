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
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from mediround.aio import AsyncClient
from mediround.annotate.engines.interface import STOPPED_BY_SIGNAL, Progress, RunOptions, Summary, Watch
from mediround.annotate.engines.ray_actor import NOT_SHARED, Annotator, flag_of
from mediround.annotate.engines.service import ServedRun
from mediround.annotate.engines.start import Start, started
from mediround.annotate.errors import AnnotateError, JobError, OtherRun
from mediround.annotate.files import write_atomic
from mediround.annotate.flow import Breaker
from mediround.annotate.job import Job, Run
from mediround.annotate.work import shard_name

ITEMS_A_BLOCK = 256
"""Most that an actor is given at once: at the end of each it has few under way."""
_BLOCKS_AN_ACTOR = 4
"""At least, where there are items enough, so that none waits long for the last."""
_IN_FLIGHT_AN_ACTOR = 32
"""One process of Python asks no more at once without loss."""
_LEAST_CPUS = 6
"""Logical, of a cluster of one's own: with fewer, Ray's readers wait for ever."""
_LOOK_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_KINDS_AT_MOST = 4
_START = "Ray did not start on this machine: try again with less load and room in /tmp, or use --engine local"
_REACH = "--ray-address: must be HOST:PORT of a cluster's head that runs"
_LOOPBACK = "127.0.0.1"
_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
_OURS = re.compile(r"^mediround\.(?:\w+\.)*errors\.(\w+): (.+)$", re.MULTILINE)


class RayEngine:
    """Schedules a run's items on a cluster.

    Args:
        address: of a cluster's head, ``HOST:PORT``; None: one of its own on this machine, on loopback.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    def run(self, job: Job, run: Run, options: RunOptions, watch: Watch) -> Summary:
        """As ``Engine.run``."""
        began = time.monotonic()
        with started(job, run, options) as start:
            seen = _Seen(start, watch)
            left = run.folder / f"ray-{shard_name(options.shard) or 'all'}.parquet"
            try:
                count = start.left.write(left)
                stopped = self._distribute(start, left, count, seen) if count else ""
            finally:
                left.unlink(missing_ok=True)
            failures = start.left.failures()
        return Summary(seen.progress(), time.monotonic() - began, stopped, failures)

    def _distribute(self, start: Start, left: Path, count: int, seen: _Seen) -> str:
        """Why it ended before all items were finished; empty: it did not."""
        options = start.options
        with _cluster(self._address) as nodes:
            asyncio.run(_checked(start.run, options))  # here, where its errors are whole
            actors = min(options.in_flight, max(nodes, math.ceil(options.in_flight / _IN_FLIGHT_AN_ACTOR)))
            share = replace(
                options,
                in_flight=options.in_flight // actors,
                rate=None if options.rate is None else options.rate / actors,
            )
            flag = flag_of(left)
            flag.unlink(missing_ok=True)
            blocks = max(1, min(ITEMS_A_BLOCK, math.ceil(count / (actors * _BLOCKS_AN_ACTOR))))
            began = datetime.now(UTC)
            given = {"run": start.run, "folder": start.folder, "options": share, "left": left, "began": began}
            try:
                return _supervised(_Mapping(left, blocks, actors, given), flag, seen, options)
            finally:
                flag.unlink(missing_ok=True)


class _Seen:
    """What the index says of a run while others write it."""

    def __init__(self, start: Start, watch: Watch) -> None:
        self._start, self._watch = start, watch
        self._breaker = Breaker(start.options.max_failures, start.options.max_failure_share)

    def look(self) -> str:
        """Take up new parts; why the run must be given up, or empty."""
        new = self._start.ledger.take_up()
        self._start.counts.add(new.finished, new.rounds)
        why = ""
        for failed, number in ((False, new.finished.ok), (True, new.finished.failed)):
            for _ in range(number):
                why = why or self._breaker.count(failed=failed)
        self._watch(self.progress(self._start.options.in_flight))
        self._start.notes.came(new.parts)
        return why

    def progress(self, most: int = 0) -> Progress:
        """``most``: what may be in flight; nobody counts it."""
        counts = self._start.counts
        return counts.progress(min(most, counts.total - counts.done))


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
    last = seen.look()
    why = why or last
    if mapping.error is not None and not why:
        raise _ours(mapping.error) from mapping.error
    return why


def _ours(error: BaseException) -> AnnotateError:
    """What an actor raised, read from what Ray makes of it."""
    kind, words = ("", "") if (found := _OURS.search(str(error))) is None else found.groups()
    if kind == OtherRun.__name__:
        return OtherRun(words)
    kinds = _kinds(error)
    if not words and any(issubclass(each, FileNotFoundError) for each in kinds):  # of what reads what is left
        words = NOT_SHARED
    told = ", caused by ".join(each.__name__ for each in kinds)
    ours = words or f"Ray gave the run up ({told}): its own log says why"
    return JobError(f"{ours}; what is finished stays")


def _kinds(error: BaseException | None) -> list[type[BaseException]]:
    """Of an error and what caused it: their words may hold an item's."""
    kinds: list[type[BaseException]] = []
    while error is not None and len(kinds) < _KINDS_AT_MOST:
        kinds.append(type(error))
        error = error.__cause__ or getattr(error, "cause", None)
    return kinds


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
        try:
            _begun(ray, address)
        except (Exception, SystemExit) as error:  # Ray's reasons are of many kinds, some of no kind at all
            ray.shutdown()
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AnnotateError(f"{_START if address is None else _REACH}: {reason}") from error
    try:
        yield sum(bool(node["Alive"]) for node in ray.nodes())
    finally:
        if ours:
            ray.shutdown()
        sys.stdout.flush()


def _begun(ray: ModuleType, address: str | None) -> None:
    """Raises what Ray raises; and OSError at once where nothing listens on the address: Ray would wait long."""
    if address is None:
        cpus = max(_LEAST_CPUS, os.cpu_count() or 1)
        ray.init("local", num_cpus=cpus, include_dashboard=False, _node_ip_address=_LOOPBACK, **_QUIET)
        return
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError("must be HOST:PORT")
    with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS):
        pass
    ray.init(address, **_QUIET)
