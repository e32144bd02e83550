"""``python -m benchmarks.overhead``: what a live round costs beside its engines, by image size and number.

Chains of thirty rounds, one dialogue at a time, through the service on the bundle's real graphs. Prints, for each
size of image, the median of all rounds after the first, and round 30 beside round 5: of the whole round in the
server, and of what is not the engines'. Times are milliseconds of a wall clock: a quiet machine is needed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import service
from benchmarks.workload import Case, image, questions
from loadtest.server_process import launched
from mediround import Client, RoundResult, __version__
from serving.runtime.cpus import usable_cpus

ROUNDS, EARLY, LATE = 30, 5, 30
NEAR = 2
"""Rounds before a numbered one that are taken with it."""


@dataclass(slots=True)
class Found:
    """Of each round, by its number, milliseconds in the server, and of them those outside the engines."""

    totals: dict[int, list[float]] = field(default_factory=dict)
    beside: dict[int, list[float]] = field(default_factory=dict)

    def add(self, number: int, result: RoundResult) -> None:
        total, took = result.timings.total, service.engines(result.timings)
        self.totals.setdefault(number, []).append(total * 1e3)
        self.beside.setdefault(number, []).append((total - took) * 1e3)

    def row(self, side: int) -> str:
        later = _median(self.beside, range(2, ROUNDS + 1))
        cells = [f"{side}x{side}", f"{later:.2f}"]
        for of in (self.beside, self.totals):
            early, late = (_median(of, range(number - NEAR, number + 1)) for number in (EARLY, LATE))
            cells.append(f"{early:.2f} → {late:.2f}, {late / early:.2f}x")
        return f"| {' | '.join(cells)} |"


def _median(of: dict[int, list[float]], numbers: Iterable[int]) -> float:
    return statistics.median(each for number in numbers for each in of[number])


def measured(client: Client, side: int, dialogues: int) -> Found:
    """Each dialogue on an image that no cache has seen."""
    found, seed = Found(), time.time_ns() % 10**9
    for number in range(dialogues):
        with client.open(image(seed + number, side)) as session:
            for place, asked in enumerate(questions(Case("chain", ROUNDS, 1))):
                found.add(place + 1, session.ask(asked.text, refer_to=asked.refer_to, answer=asked.answer))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 2048], help="of square images, pixels")
    parser.add_argument("--dialogues", type=int, default=5, help="a size")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    flags = ["--log-level", "warning", *service.PATIENT, *service.AT_ONCE]
    with (
        launched(options.bundle, options.out / "overhead.log", flags) as server,
        Client(server.address, timeout=600) as client,
    ):
        measured(client, min(options.sides), 1)  # warms up
        rows = [measured(client, side, options.dialogues).row(side) for side in options.sides]
    text = "\n".join(
        [
            f"{options.bundle.name}, chains of {ROUNDS} rounds, {options.dialogues} a size, {platform.machine()}, "
            f"{usable_cpus()} CPUs, load {os.getloadavg()[0]:.1f}; medians, ms.",
            "",
            f"| image | beside the engines | the same, rounds {EARLY} → {LATE} | whole rounds, {EARLY} → {LATE} |",
            "|---|---|---|---|",
            *rows,
        ]
    )
    (options.out / "overhead.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
