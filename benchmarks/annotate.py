"""``python -m benchmarks.annotate``: batch annotation beside what its engines allow, and beside a plain script.

The same dialogues on images that no cache has seen: (a) a plain script, one round after the other; (b) a run with
one item at once, which says what an item's encode, passes and decodes take alone; (c) a run as it is by default.
Each repeat does all three in turn, and begins with another. What a run takes besides its steady rate is told apart
(beginning, the first item, which nothing overlaps, and ending). Prints a table; writes annotate.md into ``--out``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
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
    "| rounds an image | a: images a minute | b: the same | c: the same | c / a | share of what engines allow "
    "| c: steady, images a minute | c: beside that, s | client's CPU |"
)


@dataclass(frozen=True, slots=True)
class Work:
    """What a run took.

    Attributes:
        seconds: from its first item to its last, its start and its index included.
        steady: of them an item, from the first that is finished to the last.
        cpu: seconds of this process.
        engines: seconds that the engines took, those of waiting for one another included.
    """

    seconds: float
    steady: float
    cpu: float
    engines: float


class Finishes:
    """When each item was finished; what an engine tells of its run."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, progress: Progress) -> None:
        self.times += [time.perf_counter()] * (progress.here - len(self.times))

    @property
    def steady(self) -> float:
        """Seconds an item."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


def a_run(address: str, case: Case, seeds: Sequence[int], in_flight: int) -> Work:
    """A job of its own, one item a seed."""
    with tempfile.TemporaryDirectory() as name, Client(address) as client:
        job = Job.begin(Path(name) / "job")
        write_manifest(job.manifest, [an_item(Path(name), case, seed) for seed in seeds])
        run = job.take_up(RunIdentity.of(client.describe(), "always"))
        asking = Asking(run.key, "always", run.identity.threshold, timeout=3600)
        finishes = Finishes()
        began, cpu = time.perf_counter(), time.process_time()
        summary = LocalEngine().run(job, run, RunOptions(address, asking, in_flight=in_flight), finishes)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        if summary.progress.failed:
            raise SystemExit(f"items failed: {summary.failures}")
        return Work(seconds, finishes.steady, cpu, engine_seconds(run))


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
    plain: list[float] = []
    alone: list[Work] = []
    together: list[Work] = []

    def script(seeds: Sequence[int]) -> None:
        with Client(address, timeout=3600, retries=0) as client:
            plain.append(service.run(client, case, service.round_by_round, seeds).seconds)

    ways: list[Callable[[Sequence[int]], None]] = [
        script,
        lambda seeds: alone.append(a_run(address, case, seeds, 1)),
        lambda seeds: together.append(a_run(address, case, seeds, options.in_flight)),
    ]
    count = options.images
    for repeat in range(options.repeats):
        for turn in range(len(ways)):
            ways[(repeat + turn) % len(ways)](range(seed, seed + count))
            seed += count
    naive, allowed = statistics.median(plain), statistics.median(work.engines for work in alone)
    singly, seconds = (statistics.median(work.seconds for work in works) for works in (alone, together))
    steady, cpu = (statistics.median(work.steady for work in together), statistics.median(w.cpu for w in together))
    return (
        f"| {case.rounds} | {60 * count / naive:.1f} | {60 * count / singly:.1f} | {60 * count / seconds:.1f} "
        f"| {naive / seconds:.2f}x | {allowed / seconds:.0%} | {60 / steady:.1f} | {seconds - count * steady:.2f} "
        f"| {cpu / seconds:.0%} |"
    )


def idle_start(address: str) -> float:
    """Seconds of the command where nothing is left to do: what each start costs, with its process."""
    with tempfile.TemporaryDirectory() as name, Client(address) as client:
        job = Job.begin(Path(name) / "job")
        write_manifest(job.manifest, [])
        job.take_up(RunIdentity.of(client.describe(), "always"))
        command = [sys.executable, "-m", "mediround", "annotate", "run", "--job", str(job.folder)]
        began = time.perf_counter()
        subprocess.run([*command, "--server", address], check=True, capture_output=True)  # noqa: S603  # our own
        return time.perf_counter() - began


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
    if options.images < 2:
        parser.error("--images must be at least 2: the first item, which nothing overlaps, is told apart")
    options.out.mkdir(parents=True, exist_ok=True)
    flags = ["--engines.threads", str(options.threads), "--log-level", "warning"]
    flags += [*service.PATIENT, *service.AT_ONCE]
    seed = time.time_ns() % 10**9
    lines = [COLUMNS, "|---" * 9 + "|"]
    with launched(options.bundle, options.out / "annotate.log", flags) as server:
        a_run(server.address, Case("chain", 2, 1), range(seed - 2, seed), 2)  # graphs are warm then
        print("\n".join(lines))
        for rounds in options.rounds:
            lines.append(measure(server.address, Case("chain", rounds, 1), options, seed))
            print(lines[-1], flush=True)
            seed += 10_000
        lines.append(f"\nA start of the command with nothing left to do: {idle_start(server.address):.1f} s.")
        print(lines[-1], flush=True)
    (options.out / "annotate.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
