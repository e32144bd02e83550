"""``python -m benchmarks.first_mask``: from an image that no cache has seen to its first mask, asked for at once.

The session is opened, and its first question asked, by the published client on this machine, one image after
another, on the bundle's real graphs. ``--against`` runs another checkout's service beside this one's, asked in
turn on images of the same kind. Prints medians of wall clock, so a quiet machine is needed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.workload import Case, image, questions
from loadtest.server_process import launched
from mediround import Client, __version__
from serving.runtime.cpus import usable_cpus

HERE = Path(__file__).parents[1]


@dataclass(slots=True)
class Way:
    """One checkout's service, and milliseconds found of it."""

    client: Client
    opened: list[float] = field(default_factory=list)
    """Until the session was there."""
    masks: list[float] = field(default_factory=list)
    """Until the mask was."""

    def measure(self, seed: int, side: int) -> None:
        """On a new image: one of another seed is another."""
        pixels, asked = image(seed, side), questions(Case("chain", 1, 1))[0]
        began = time.perf_counter()
        with self.client.open(pixels) as session:
            self.opened.append((time.perf_counter() - began) * 1e3)
            session.ask(asked.text, answer=asked.answer)
            self.masks.append((time.perf_counter() - began) * 1e3)

    def row(self, name: str) -> str:
        cells = [f"{statistics.median(each):.0f} ({min(each):.0f})" for each in (self.opened, self.masks)]
        return f"| {name} | {' | '.join(cells)} |"


def measured(options: argparse.Namespace) -> dict[str, Way]:
    """Each checkout's, by what it is here."""
    checkouts = {"this": HERE, **({"against": options.against.resolve()} if options.against else {})}
    ways: dict[str, Way] = {}
    with ExitStack() as stack:
        for name, directory in checkouts.items():
            path = os.pathsep.join(map(str, (directory, directory / "clients")))
            variables = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
            log = options.out / f"first-mask-{name}.log"
            server = launched(options.bundle.resolve(), log, ["--log-level", "warning"], environment=variables)
            address = stack.enter_context(server).address
            ways[name] = Way(stack.enter_context(Client(address, timeout=600)))
        seed = time.time_ns() % 10**9
        for number in range(options.images):
            in_turn = list(ways.values()) if number % 2 else list(reversed(ways.values()))
            for place, way in enumerate(in_turn):
                way.measure(seed + number * len(ways) + place, options.side)
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_mask", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--side", type=int, default=2048, help="of square images, pixels")
    parser.add_argument("--images", type=int, default=15, help="for each checkout")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    ways = measured(options)
    text = "\n".join(
        [
            f"{options.bundle.name}, {options.side}x{options.side} images, {options.images} each, "
            f"{platform.machine()}, {usable_cpus()} CPUs, load {os.getloadavg()[0]:.1f}; ms, median (least).",
            "",
            "| checkout | session open | first mask |",
            "|---|---|---|",
            *(way.row(name) for name, way in ways.items()),
        ]
    )
    (options.out / "first-mask.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
