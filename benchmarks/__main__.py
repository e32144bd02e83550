"""``make bench``: the published protocol against the service, on the same graphs, in one run.

For each case in turn: (a) the published protocol, (b) the service round by round, (c) the service with the
dialogue known in advance; repeated, so that a drifting machine meets all three alike. Prints and writes a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import Progress

from benchmarks import service
from benchmarks.workload import SIDE, Case, case, every_case
from loadtest.server_process import Launched, launched
from mediround import Client, __version__
from serving.runtime.cpus import usable_cpus

COLUMNS = "| case | a: s a dialogue | b / a | bound | share | c / a | bound | share | passes a, b, c | encodes |"


@dataclass(frozen=True, slots=True)
class Row:
    """One case; seconds and counts are a dialogue's, medians over repeats."""

    case: str
    concurrency: int
    baseline_seconds: float
    speedup_live: float
    speedup_known: float
    bound_live: float
    bound_known: float
    passes: tuple[float, float, float]
    encodes: tuple[float, float, float]
    overhead_ms_p50: float
    """Of a live round, everything but the engines, in the server: see ``service.engines``."""
    seen_ms_p50: float
    """The same as the caller saw it: the wire and the mask's coding on both sides included."""
    baseline_peak_mib: float
    service_peak_mib: float

    def markdown(self) -> str:
        passes, encodes = ("/".join(f"{count:g}" for count in counts) for counts in (self.passes, self.encodes))
        return (
            f"| {self.case} | {self.baseline_seconds:.2f} "
            f"| {self.speedup_live:.2f}x | {self._bound(self.speedup_live, self.bound_live)} "
            f"| {self.speedup_known:.2f}x | {self._bound(self.speedup_known, self.bound_known)} "
            f"| {passes} | {encodes} |"
        )

    def _bound(self, speedup: float, reached: float) -> str:
        """Only alone: beside others, a stage's time includes waiting for its engine."""
        return f"{speedup / reached:.2f}x | {reached:.0%}" if self.concurrency == 1 else "- | -"


def measure(server: Launched, bundle: Path, asked: Case, options: argparse.Namespace, first_seed: int) -> Row:
    """All three ways in turn, ``options.repeats`` times, each on images that no cache has seen."""
    baselines, live, known = [], [], []
    count = max(asked.concurrency, options.dialogues)
    with Client(server.address, timeout=3600, retries=0) as client:
        for repeat in range(options.repeats):
            seeds = [first_seed + (3 * repeat) * count + k for k in range(count)]
            baselines.append(_published(bundle, options.threads, asked, seeds))
            live.append(service.run(client, asked, service.round_by_round, [s + count for s in seeds]))
            known.append(service.run(client, asked, service.known_in_advance, [s + 2 * count for s in seeds]))
    seconds = [statistics.median(float(b["seconds"]) for b in baselines)]
    seconds += [statistics.median(m.seconds for m in way) for way in (live, known)]
    return Row(
        case=str(asked),
        concurrency=asked.concurrency,
        baseline_seconds=seconds[0] / count,
        speedup_live=seconds[0] / seconds[1],
        speedup_known=seconds[0] / seconds[2],
        bound_live=statistics.median(m.bound / m.seconds for m in live),
        bound_known=statistics.median(m.bound / m.seconds for m in known),
        passes=(baselines[0]["passes"] / count, live[0].passes / count, known[0].passes / count),
        encodes=(baselines[0]["encodes"] / count, live[0].encodes / count, known[0].encodes / count),
        overhead_ms_p50=statistics.median(seconds for m in live for seconds in m.overheads) * 1000,
        seen_ms_p50=statistics.median(seconds for m in live for seconds in m.seen) * 1000,
        baseline_peak_mib=max(b["peak_bytes"] for b in baselines) / 2**20,
        service_peak_mib=server.peak_memory() / 2**20,
    )


def _published(bundle: Path, threads: int, asked: Case, seeds: Sequence[int]) -> dict[str, float]:
    shape = f"{asked.shape}:{asked.rounds}:{asked.concurrency}"
    arguments = [str(bundle), str(threads), shape, json.dumps(list(seeds))]
    command = [sys.executable, "-m", "benchmarks.published", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # our own module
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def report(rows: Sequence[Row], bundle: Path, options: argparse.Namespace) -> str:
    alone = [row for row in rows if row.concurrency == 1]
    return "\n".join(
        [
            f"{bundle.name}, {SIDE}x{SIDE} images, {options.threads} threads a half, {options.repeats} repeats, "
            f"{platform.machine()}, {usable_cpus()} CPUs, load {os.getloadavg()[0]:.1f}.",
            "",
            COLUMNS,
            "|" + "---|" * (COLUMNS.count("|") - 1),
            *(row.markdown() for row in rows),
            "",
            *_outside(alone),
            f"Peak memory: (a) {max(row.baseline_peak_mib for row in rows):.0f} MiB, "
            f"service {rows[-1].service_peak_mib:.0f} MiB.",
        ]
    )


def _outside(alone: Sequence[Row]) -> list[str]:
    """What a round costs beside the engines; nothing where none was alone."""
    if not alone:
        return []
    server = statistics.median(row.overhead_ms_p50 for row in alone)
    caller = statistics.median(row.seen_ms_p50 for row in alone)
    seen = f"{server:.2f} ms in the server, {caller:.2f} ms as its caller sees it."
    return [f"Outside the engines, a live round alone: p50 {seen}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument(
        "--cases", type=case, nargs="+", default=every_case(), metavar="SHAPE:ROUNDS:AT_ONCE", help="chain:5:1"
    )
    parser.add_argument("--dialogues", type=int, default=3, help="dialogues a repeat, at least the concurrency")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    flags = ["--engines.threads", str(options.threads), "--log-level", "warning"]
    flags += [*service.PATIENT, *service.AT_ONCE]
    rows: list[Row] = []
    seed = time.time_ns() % 10**9
    with launched(options.bundle, options.out / "server.log", flags) as server, Progress() as progress:
        for measured in progress.track(options.cases, description=options.bundle.name):
            rows.append(measure(server, options.bundle, measured, options, seed))
            seed += 10_000
    text = report(rows, options.bundle, options)
    (options.out / f"{options.bundle.name}.md").write_text(text + "\n")
    (options.out / f"{options.bundle.name}.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print(text)


if __name__ == "__main__":
    main()
