"""``python -m benchmarks.annotate_scale``: what a batch run's size costs the client, beside a scripted service.

Three sections, each in a process of its own: the most memory of a run after so many items; how long a run of a
million items takes to go on, with its ledger and without; and Ray's rate beside the local engine's. Prints
tables, and writes annotate_scale.md into ``--out``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from loadtest.server_process import peak_memory
from mediround import Client, __version__
from mediround.aio import AsyncClient
from mediround.annotate.annotating import Asking, Outcome, blank_rows
from mediround.annotate.engines import asker
from mediround.annotate.engines.interface import Engine, Progress, RunOptions
from mediround.annotate.engines.local import LocalEngine
from mediround.annotate.engines.ray import RayEngine
from mediround.annotate.index import read_parts, write_file
from mediround.annotate.items import Item, Question, item_id
from mediround.annotate.job import Job, Run, RunIdentity
from mediround.annotate.loading import LoadedItem
from mediround.annotate.manifest import ITEMS_AT_ONCE, row_of, write_manifest
from mediround.annotate.manifest import SCHEMA as MANIFEST
from mediround.annotate.rows import SCHEMA, table

SECTIONS = ("memory", "start", "ray")
LEFT = 1000
"""Items that a run of a million has not finished."""
IN_FLIGHT = 8
_ROWS_A_FILE = 100_000
_SERVER = """
import sys
from mediround.testing import serve
with serve() as server:
    print(server.address, flush=True)
    sys.stdin.read()
"""


@contextmanager
def scripted() -> Iterator[str]:
    """Address of a scripted server in a process of its own."""
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # our own
        yield process.stdout.readline().strip() if process.stdout else ""
        process.communicate()


def an_item(folder: Path, number: int) -> Item:
    """All are on one picture; their questions differ."""
    path = folder / "picture.png"
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        held = io.BytesIO()
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(held, "PNG")
        path.write_bytes(held.getvalue())
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    asked = (Question("only", "Only", f"Segment region {number}.", answer="It is [SEG]."),)
    name = item_id(digest, None, "", asked)
    return Item(name, digest, "picture", path.as_uri(), asked, sha256=digest, size=len(content))


def a_job(folder: Path, address: str) -> tuple[Job, Run]:
    job = Job.begin(folder / "job")
    with Client(address) as client:
        return job, job.take_up(RunIdentity.of(client.describe(), "referenced"))


def options(address: str, run: Run) -> RunOptions:
    return RunOptions(address, Asking(run.key, "referenced", run.identity.threshold), in_flight=IN_FLIGHT)


def memory(given: argparse.Namespace) -> str:
    """Most resident memory of this process after so many items of one run: asked through the service, then more
    that are answered in place, since a scripted server takes longer for them than all else.
    """
    lines = ["| items finished | asked | most resident memory, MiB | files of the index |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name, scripted() as address:
        lines += _remembered(Path(name) / "asked", address, given.asked, "through the service")
        with patch.object(asker, "annotate", answered):
            lines += _remembered(Path(name) / "answered", address, given.items, "in place")
    return "\n".join(lines)


def _remembered(folder: Path, address: str, items: int, how: str) -> list[str]:
    marks = sorted({max(1, items // 10), max(1, items // 2), items})
    lines = []
    job, run = a_job(folder, address)
    write_manifest(job.manifest, (an_item(folder, number) for number in range(items)))

    def line(words: str) -> str:
        files = len(list(run.index.glob("*.parquet")))
        return f"| {words} | {how} | {peak_memory() / 2**20:.0f} | {files} |"

    def watch(progress: Progress) -> None:
        while marks and progress.here >= marks[0]:
            lines.append(line(f"{marks.pop(0):,}"))

    LocalEngine().run(job, run, options(address, run), watch)
    return [*lines, line("merged")]


async def answered(_: AsyncClient, item: Item, __: LoadedItem, asking: Asking) -> Outcome:
    """In place of ``annotate``: the model sees nothing."""
    rows = blank_rows(item, asking.run_key)
    return Outcome(item.item_id, "ok", tuple(replace(row, status="no_mask", answer="-") for row in rows))


def start(given: argparse.Namespace) -> str:
    """Seconds until the first item of a resumed run is finished."""
    lines = [
        "| a run of that many items goes on | first item finished after, s | CPU, s | most resident memory, MiB |"
    ]
    lines.append("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, scripted() as address:
        job, run = a_job(Path(name), address)
        _nearly_finished(job, run, Path(name), given.manifest)
        for words in ("without its ledger", "with it"):
            finished: list[float] = []
            began, cpu = time.monotonic(), time.process_time()

            def watch(
                progress: Progress, finished: list[float] = finished, began: float = began, cpu: float = cpu
            ) -> None:
                if progress.here and not finished:
                    finished.extend((time.monotonic() - began, time.process_time() - cpu))
                    os.kill(os.getpid(), signal.SIGTERM)  # the next start has some left

            LocalEngine().run(job, run, options(address, run), watch)
            seconds, busy = finished
            memory = peak_memory() / 2**20
            lines.append(f"| {given.manifest:,}, {words} | {seconds:.1f} | {busy:.1f} | {memory:.0f} |")
    return "\n".join(lines)


def _nearly_finished(job: Job, run: Run, folder: Path, count: int) -> None:
    """All but the last ``LEFT`` items are finished. Written column by column, since item by item takes minutes."""
    item = an_item(folder, 0)
    names = [hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest() for number in range(count)]
    one = pa.Table.from_pylist([row_of(item)], MANIFEST)
    with pq.ParquetWriter(job.manifest, MANIFEST) as writer:
        writer.write_table(_named(one, names), row_group_size=ITEMS_AT_ONCE)
    row = table([replace(row, status="no_mask", answer="-") for row in blank_rows(item, run.key)])
    done = names[:-LEFT]
    for first in range(0, len(done), _ROWS_A_FILE):
        many = _named(row, done[first : first + _ROWS_A_FILE])
        write_file(run.index, "merged", partial(pq.write_table, many.cast(SCHEMA)))


def _named(one: pa.Table, names: list[str]) -> pa.Table:
    many = one.take(pa.array(np.zeros(len(names), np.int64)))
    return many.set_column(0, one.schema.field("item_id"), pa.array(names, pa.string()))


def ray(given: argparse.Namespace) -> str:
    """Items a second between the first tenth and the last, of both engines, in turn."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    lines = ["| engine | steady, items a second | whole run, s |", "|---|---|---|"]
    engines: dict[str, Callable[[], Engine]] = {"local": LocalEngine, "ray": RayEngine}
    for name, engine in [*engines.items()] * given.repeats:
        with tempfile.TemporaryDirectory() as folder, scripted() as address:
            job, run = a_job(Path(folder), address)
            write_manifest(job.manifest, (an_item(Path(folder), number) for number in range(given.ray_items)))
            began = time.monotonic()
            engine().run(job, run, options(address, run), unwatched)
            lines.append(f"| {name} | {_steady(run):.0f} | {time.monotonic() - began:.1f} |")
    return "\n".join(lines)


def unwatched(progress: Progress) -> None:
    """Nobody looks."""


def _steady(run: Run) -> float:
    times = sorted(at for _, found in read_parts(run.index, ["finished"]) for at in found["finished"].to_pylist())
    first, last = len(times) // 10, len(times) * 9 // 10
    return (last - first) / float((times[last] - times[first]).total_seconds())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotate_scale", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--items", type=int, default=100_000, help="whose memory is measured, answered in place")
    parser.add_argument("--asked", type=int, default=10_000, help="whose memory is measured, asked (10000)")
    parser.add_argument("--manifest", type=int, default=1_000_000, help="items of the run that goes on (1000000)")
    parser.add_argument("--ray-items", type=int, default=4000, help="of each run beside Ray (4000)")
    parser.add_argument("--repeats", type=int, default=2, help="of the engines, in turn (2)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    said = []
    for section in given.sections:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            said.append(process.submit(globals()[section], given).result())
        print(f"{said[-1]}\n", flush=True)
    (given.out / "annotate_scale.md").write_text("\n\n".join(said) + "\n")


if __name__ == "__main__":
    main()
