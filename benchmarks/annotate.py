"""``python -m benchmarks.annotate``: batch annotation beside what its engines allow, and beside a plain script.

The same dialogues on images that no cache has seen: (a) a plain script, one round after the other; (b) a run with
one item at once, which says what an item's encode, passes and decodes take alone; (c) a run as it is by default.
Each repeat does all three in turn. Prints a table, and writes annotate.md into ``--out``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks import service
from benchmarks.workload import Case, image, questions
from loadtest.server_process import launched
from mediround import Client, __version__
from mediround.annotate.annotating import Asking
from mediround.annotate.engines.interface import Progress, RunOptions
from mediround.annotate.engines.local import LocalEngine
from mediround.annotate.index import read_parts
from mediround.annotate.items import Item, Question, item_id
from mediround.annotate.job import Job, Run, RunIdentity
from mediround.annotate.manifest import write_manifest
from mediround.annotate.rows import Row, rows_of
from serving.runtime.cpus import usable_cpus

COLUMNS = (
    "| rounds an image | a: images a minute | c: the same | c / a | share of what engines allow | client's CPU |"
)


@dataclass(frozen=True, slots=True)
class Work:
    """What a run took.

    Attributes:
        seconds: from its first item to its last, its start and its index included.
        cpu: seconds of this process.
        engines: seconds that the engines took, those of waiting for one another included.
    """

    seconds: float
    cpu: float
    engines: float


def a_run(address: str, case: Case, seeds: Sequence[int], in_flight: int) -> Work:
    """A job of its own, one item a seed."""
    with tempfile.TemporaryDirectory() as name, Client(address) as client:
        job = Job.begin(Path(name) / "job")
        write_manifest(job.manifest, [an_item(Path(name), case, seed) for seed in seeds])
        run = job.take_up(RunIdentity.of(client.describe(), "always"))
        asking = Asking(run.key, "always", run.identity.threshold, timeout=3600)
        began, cpu = time.perf_counter(), time.process_time()
        summary = LocalEngine().run(job, run, RunOptions(address, asking, in_flight=in_flight), _unwatched)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        if summary.progress.failed:
            raise SystemExit(f"items failed: {summary.failures}")
        return Work(seconds, cpu, engine_seconds(run))


def an_item(folder: Path, case: Case, seed: int) -> Item:
    held = io.BytesIO()
    Image.fromarray(image(seed)).save(held, "PNG", compress_level=1)
    content = held.getvalue()
    path = folder / f"{seed}.png"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    asked = tuple(
        Question(f"q{number}", "", each.text, each.refer_to, answer=each.answer)
        for number, each in enumerate(questions(case))
    )
    named = item_id(digest, None, "", asked)
    return Item(named, digest, "picture", path.as_uri(), asked, sha256=digest, size=len(content))


def engine_seconds(run: Run) -> float:
    """Of each wave the longer of encoding and reading, then decoding: its rounds share them."""
    waves: dict[tuple[str, int | None], list[Row]] = defaultdict(list)
    for _, table in read_parts(run.index):
        for row in rows_of(table):
            waves[row.item_id, row.wave].append(row)
    return sum(
        max(
            max(row.seconds_language or 0.0, row.seconds_encode or 0.0) + (row.seconds_decode or 0.0)
            for row in wave
        )
        for wave in waves.values()
    )


def measure(address: str, case: Case, options: argparse.Namespace, seed: int) -> str:
    plain, alone, together = [], [], []
    count = options.images
    for repeat in range(options.repeats):
        seeds = [
            range(seed + (3 * repeat + way) * count, seed + (3 * repeat + way + 1) * count) for way in range(3)
        ]
        with Client(address, timeout=3600, retries=0) as client:
            plain.append(service.run(client, case, service.round_by_round, seeds[0]).seconds)
        alone.append(a_run(address, case, seeds[1], 1))
        together.append(a_run(address, case, seeds[2], options.in_flight))
    naive, allowed = statistics.median(plain), statistics.median(work.engines for work in alone)
    seconds = statistics.median(work.seconds for work in together)
    cpu = statistics.median(work.cpu for work in together)
    return (
        f"| {case.rounds} | {60 * count / naive:.0f} | {60 * count / seconds:.0f} | {naive / seconds:.2f}x "
        f"| {allowed / seconds:.0%} | {cpu / seconds:.0%} |"
    )


def _unwatched(progress: Progress) -> None:
    """Nobody looks."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotate", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 5, 20], help="of a dialogue, a chain")
    parser.add_argument("--images", type=int, default=40, help="of a run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=8, help="items at once in (c)")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    flags = ["--engines.threads", str(options.threads), "--log-level", "warning"]
    flags += [*service.PATIENT, *service.AT_ONCE]
    seed = time.time_ns() % 10**9
    lines = [COLUMNS, "|---" * 6 + "|"]
    with launched(options.bundle, options.out / "annotate.log", flags) as server:
        a_run(server.address, Case("chain", 2, 1), range(seed - 2, seed), 2)  # graphs are warm then
        print("\n".join(lines))
        for rounds in options.rounds:
            lines.append(measure(server.address, Case("chain", rounds, 1), options, seed))
            print(lines[-1], flush=True)
            seed += 10_000
    (options.out / "annotate.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
