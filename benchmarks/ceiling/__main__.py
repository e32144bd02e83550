"""``python -m benchmarks.ceiling``: rounds a second of one orchestrator whose engines answer at once.

The real service in a process of its own, on CPUs of its own, with all that it does for a round but the engines:
gRPC, sessions, admission, pixels, crops, masks. Asked by the published client on another CPU. ``--against`` runs
another checkout's service beside it, in turn with this one's. Prints a table for each size and kind of image; with
``--sections front-end``, what a prompt costs the language server beside vLLM's own processes.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks import service
from benchmarks.ceiling import instant, load
from benchmarks.ceiling.front_end import FrontEnd, at_published_sizes
from benchmarks.ceiling.load import STAGES, Images, Used
from benchmarks.workload import SIDE, case
from loadtest.server_process import Launched, launched
from mediround import Client, __version__

HERE = Path(__file__).parents[2]
FLAGS = ("--log-level", "warning", *service.PATIENT)
AS_REMOTE = ("--admission.concurrency", "32", "--admission.encode-concurrency", "8")
"""As where both halves are servers of their own."""
START_SECONDS = 400.0
"""For vLLM's."""


@dataclass(slots=True)
class Way:
    """One checkout's service, and what was found of it."""

    client: Client
    dialogues: list[Used] = field(default_factory=list)
    openings: list[Used] = field(default_factory=list)
    rounds: list[Used] = field(default_factory=list)
    referring: list[Used] = field(default_factory=list)

    def measure(self, images: Images, options: argparse.Namespace) -> None:
        at_once = options.case.concurrency
        self.dialogues.append(load.dialogues(self.client, images.make(options.dialogues), options.case))
        self.openings.append(load.openings(self.client, images.make(options.dialogues), at_once))
        held = images.make(at_once)
        self.rounds.append(load.rounds(self.client, held, options.rounds, refer=False))
        self.referring.append(load.rounds(self.client, held, options.rounds, refer=True))

    def figures(self) -> dict[str, float]:
        """Medians, by what they are of; all but the first in milliseconds of CPU."""
        opening, plain, referring = (
            statistics.median(used.total for used in found)
            for found in (self.openings, self.rounds, self.referring)
        )
        return {
            "rounds a second": statistics.median(used.rate for used in self.dialogues),
            "a round, its share of the opening included": statistics.median(used.total for used in self.dialogues),
            **{f"… {name}": statistics.median(u.milliseconds[name] for u in self.dialogues) for name in STAGES},
            "an opening": opening,
            "a round that refers to none": plain,
            "a reference": referring - plain,
        }


@contextmanager
def servers(
    options: argparse.Namespace, flags: Sequence[str], environment: Mapping[str, str]
) -> Iterator[list[Launched]]:
    """One of each checkout, on all CPUs but the last, which this process keeps for itself."""
    cpus = sorted(os.sched_getaffinity(0))
    with ExitStack() as running:
        os.sched_setaffinity(0, cpus[:-1] or cpus)  # a server inherits it
        running.callback(os.sched_setaffinity, 0, cpus)
        found = []
        for number, checkout in enumerate(options.checkouts):
            path = os.pathsep.join([str(checkout), str(checkout / "clients")])
            variables = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", **environment}
            log, script = options.out / f"ceiling-{number}.log", Path(instant.__file__)
            server = launched(options.bundle, log, flags, START_SECONDS, script=script, environment=variables)
            found.append(running.enter_context(server))
        os.sched_setaffinity(0, cpus[-1:])
        yield found


def compare(sizes: str, kind: str, options: argparse.Namespace) -> str:
    """A table; each repeat in the order here, there, there, here, so that a drift meets both alike."""
    with ExitStack() as stack:
        running = stack.enter_context(servers(options, (*FLAGS, *AS_REMOTE), {instant.SIZES: sizes}))
        found = [Way(stack.enter_context(Client(server.address, retries=0))) for server in running]
        images = Images.new(grey=kind == "grey")
        for way in found:
            Way(way.client).measure(images, options)  # warms up
        for _ in range(options.repeats):
            for way in [*found, *reversed(found)]:
                way.measure(images, options)
        share = max(used.asking for way in found for used in way.dialogues)
        figures = [way.figures() for way in found]
    columns = [list(figure.values()) for figure in figures]
    made = table(f"{sizes} sizes, {kind} images", list(figures[0]), columns)
    return f"{made}\n\nThe asking process took {share:.0%} of its CPU at most."


def front_end(options: argparse.Namespace) -> str:
    """A table of the language server; repeats as in ``compare``."""
    environment = {instant.SIZES: "published", instant.HALF: "language"}
    flags = ("--engine", "vllm-cpu", "--log-level", "warning")
    bundle, rounds = at_published_sizes(options.bundle), options.case.rounds
    seeds = count(time.time_ns() % 10**9, options.case.concurrency)
    with servers(options, flags, environment) as running:
        for server in running:
            FrontEnd(server, bundle).measure(rounds, options.case.concurrency, next(seeds))  # warms up
        found = [FrontEnd(server, bundle) for server in running]
        for _ in range(options.repeats):
            for one in [*found, *reversed(found)]:
                one.measure(rounds, options.case.concurrency, next(seeds))
    names = [f"round {number + 1}" for number in range(rounds)]
    columns = [[statistics.median(one.milliseconds[number]) for number in range(rounds)] for one in found]
    return table("language server, published sizes", names, columns)


def table(what: str, names: Sequence[str], columns: Sequence[Sequence[float]]) -> str:
    """A row a name, a column a checkout; of two, with their ratio."""
    head = [what, *(["this"] if len(columns) == 1 else ["this", "against", "ratio"])]
    rows = [[name, *_cells(list(values))] for name, *values in zip(names, *columns, strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _cells(values: list[float]) -> list[str]:
    cells = [f"{value:.2f}" for value in values]
    return cells if len(values) == 1 else [*cells, f"{values[0] / values[1]:.2f}x" if values[1] else "-"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ceiling", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"), help="words and tokens")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--sections", nargs="+", choices=("service", "front-end"), default=["service"])
    parser.add_argument("--sizes", nargs="+", choices=("published", "lite"), default=["published", "lite"])
    parser.add_argument("--images", nargs="+", choices=("grey", "colour"), default=["grey", "colour"])
    parser.add_argument("--case", type=case, default=case("chain:5:8"), metavar="SHAPE:ROUNDS:AT_ONCE")
    parser.add_argument("--dialogues", type=int, default=32, help="dialogues, and openings, a run")
    parser.add_argument("--rounds", type=int, default=20, help="rounds a session of those on held images")
    parser.add_argument("--repeats", type=int, default=5, help="each has two runs a checkout")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.bundle = options.bundle.resolve()
    options.checkouts = [HERE, *([options.against.resolve()] if options.against else [])]
    write(options, tables(options))


def tables(options: argparse.Namespace) -> Iterator[str]:
    """What was asked for, one at a time."""
    if "service" in options.sections:
        for sizes in options.sizes:
            for kind in options.images:
                yield compare(sizes, kind, options)
    if "front-end" in options.sections:
        yield front_end(options)


def write(options: argparse.Namespace, made: Iterable[str]) -> None:
    """Each as soon as it is there: all take half an hour, and what ends them early takes none of those before."""
    head = (
        f"{options.case}, {SIDE}x{SIDE} images, medians of {2 * options.repeats} runs, {platform.machine()}, "
        f"{max(1, len(os.sched_getaffinity(0)) - 1)} CPUs for a server. "
        "All but rounds a second are milliseconds of the server's CPU."
    )
    with (options.out / "ceiling.md").open("w") as out:
        print(head, file=out)
        print(head)
        for each in made:
            text = f"\n{each}\n\nLoad of the machine: {os.getloadavg()[0]:.1f}."
            print(text, file=out, flush=True)
            print(text, flush=True)


if __name__ == "__main__":
    main()
