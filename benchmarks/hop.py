"""``python -m benchmarks.hop``: what it costs to have the language half in a process of its own.

The same live dialogues on the same graphs, in turn by a server with both halves in one process and by one that
asks a language server over loopback; then the bytes of the prompts, with pixels sent once and sent each time.
Prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import service
from benchmarks.published import Published, published
from benchmarks.workload import Case, case, image, questions
from loadtest.server_process import launched
from mediround import Client, __version__
from serving.llm.messages import complete_request, pictures
from serving.ports import Completion, LanguageEngine, Prompt
from serving.runtime.cpus import usable_cpus
from serving.runtime.record import RuntimeRecord

COLUMNS = "| case | language half, ms a round: one process | over the hop | ratio | ms more | a round as seen, ms: one process | over the hop | ratio |"  # noqa: E501  # a table's head


@dataclass(slots=True)
class Times:
    """Seconds of each round."""

    language: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)

    def ask(self, client: Client, asked: Case, seed: int) -> None:
        """One live dialogue."""
        with client.open(image(seed)) as session:
            for question in questions(asked):
                began = time.perf_counter()
                result = session.ask(question.text, refer_to=question.refer_to, answer=question.answer)
                self.seen.append(time.perf_counter() - began)
                self.language.append(result.timings.language)


@dataclass(slots=True)
class Metered:
    """A LanguageEngine that weighs each prompt as a message."""

    engine: LanguageEngine
    description: str = "metered/"
    with_pixels: list[int] = field(default_factory=list)
    sent_once: list[int] = field(default_factory=list)
    _sent: set[str] = field(default_factory=set)

    @property
    def runtimes(self) -> tuple[RuntimeRecord, ...]:
        return self.engine.runtimes

    async def complete(self, prompt: Prompt) -> Completion:
        digest = "0" * 64
        self.with_pixels.append(complete_request(prompt, digest, set()).ByteSize())
        self.sent_once.append(complete_request(prompt, digest, self._sent).ByteSize())
        self._sent |= {picture.digest for picture in pictures(prompt)}
        return await self.engine.complete(prompt)

    async def close(self) -> None:
        await self.engine.close()


def compare(ways: Sequence[Client], asked: Case, repeats: int, seed: int) -> str:
    """A row of the table: both ways in turn, so that a drifting machine meets them alike."""
    times = [Times(), Times()]
    for repeat in range(repeats):
        for way, client in enumerate(ways):
            times[way].ask(client, asked, seed + 2 * repeat + way)
    near, far = ([statistics.median(of) * 1000 for of in (t.language, t.seen)] for t in times)
    return (
        f"| {asked} | {near[0]:.2f} | {far[0]:.2f} | {far[0] / near[0]:.3f} | {far[0] - near[0]:.2f} "
        f"| {near[1]:.1f} | {far[1]:.1f} | {far[1] / near[1]:.3f} |"
    )


async def weigh(bundle: Path, asked: Case, threads: int) -> str:
    """Kilobytes of each round's prompt."""
    async with published(bundle, threads) as protocol:
        metered = Metered(protocol.language)
        metering = Published(replace(protocol.orchestrator, language=metered), protocol.language, protocol.vision)
        await metering.run(asked, [0])
    totals = sum(metered.with_pixels), sum(metered.sent_once)
    each = ", ".join(f"{before / 1e3:.0f} → {after / 1e3:.0f}" for before, after in _pairs(metered))
    return f"{asked}: kB a round, pixels each time → once: {each}; in sum {totals[0] / totals[1]:.1f} times less"


def _pairs(metered: Metered) -> list[tuple[int, int]]:
    return list(zip(metered.with_pixels, metered.sent_once, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hop", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--cases", type=case, nargs="+", default=[case("chain:5:1"), case("star:10:1")])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    threads, quiet = str(options.threads), ["--log-level", "warning"]
    flags = ["--engines.threads", threads, *service.AT_ONCE, *quiet]
    logs = [options.out / f"hop-{name}.log" for name in ("language", "near", "far")]
    with (
        launched(options.bundle, logs[0], ["--onnx.threads", threads, *quiet], module="serving.llm") as language,
        launched(options.bundle, logs[1], flags) as near,
        launched(options.bundle, logs[2], [*flags, "--language", f"grpc://{language.address}"]) as far,
        Client(near.address, retries=0) as one_process,
        Client(far.address, retries=0) as over_the_hop,
    ):
        seed = time.time_ns() % 10**9
        rows = [compare([one_process, over_the_hop], asked, options.repeats, seed) for asked in options.cases]
    lines = [
        f"{options.bundle.name}, {options.threads} threads a half, medians of {options.repeats} dialogues a way, "
        f"{platform.machine()}, {usable_cpus()} CPUs, load {os.getloadavg()[0]:.1f}.",
        "",
        COLUMNS,
        "|" + "---|" * (COLUMNS.count("|") - 1),
        *rows,
        "",
        *(asyncio.run(weigh(options.bundle, asked, options.threads)) for asked in options.cases),
    ]
    text = "\n".join(lines)
    (options.out / f"hop-{options.bundle.name}.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
