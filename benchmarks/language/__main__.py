"""``python -m benchmarks.language``: what vLLM makes of the language half, in ratios and in counts.

In one run and on one set of weights: forced against free answers, the prefix cache on and off, many dialogues at
once against one after another, all against a plain transformers loop; then bfloat16 alone against beside others;
then a request for each feature against chosen rows. Images are such that no cache has seen, where nothing else is
said. Prints tables and writes them to ``build/bench``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.language.dialogues import (
    ROUNDS,
    BenchmarkDialogue,
    dialogues,
    forced,
    forced_prompts,
    free,
)
from benchmarks.language.plain import PlainLanguage
from benchmarks.language.rows import chosen_rows
from benchmarks.language.sensitivity import Decoded, decode, moved
from mediround import __version__
from serving.bundle import Bundle, load_bundle
from serving.domain import F32
from serving.llm.vllm_engine import VllmLanguage
from serving.llm.vllm_options import ON_CPU, VllmOptions
from serving.ports import Completion, LanguageEngine
from serving.prompt import PromptTemplate
from serving.runtime.cpus import usable_cpus

SECTIONS = ("throughput", "sensitivity", "rows")
Way = Callable[[LanguageEngine, PromptTemplate, BenchmarkDialogue, str], Awaitable[list[Completion]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One way of asking; all figures are a dialogue's, medians over repeats."""

    way: str
    seconds: float
    computed: float
    """Prompt tokens computed."""
    passes: float
    """Requests, or forward passes of the plain loop."""
    generated: float
    steps: float
    """Engine steps that sampled; the dialogues of a step share it."""


class Bench:
    """One bundle's measurement; images are numbered through, so that none is asked twice."""

    def __init__(self, bundle: Bundle, options: VllmOptions, given: argparse.Namespace) -> None:
        self.bundle, self.options, self.given = bundle, options, given
        self.form = PromptTemplate.of(bundle)
        self.rows: list[Row] = []
        self._next = 0

    def unseen(self, count: int) -> list[BenchmarkDialogue]:
        self._next += count
        return dialogues(self.bundle, self.given.slices, count, self._next - count)

    async def measure(self, name: str, engine: VllmLanguage, way: Way, count: int, at_once: int) -> None:
        """``count`` dialogues, ``at_once`` of them beside each other."""
        runs = []
        for _ in range(self.given.repeats):
            asked, gate, before = self.unseen(count), asyncio.Semaphore(at_once), engine.counts
            began = time.perf_counter()
            await asyncio.gather(*(_gated(gate, way(engine, self.form, each, "bench")) for each in asked))
            seconds, after = time.perf_counter() - began, engine.counts
            run = [seconds, after.computed_tokens - before.computed_tokens, after.requests - before.requests]
            run += [after.generated_tokens - before.generated_tokens, after.steps - before.steps]
            runs.append([value / count for value in run])
        self.rows.append(Row(name, *(statistics.median(values) for values in zip(*runs, strict=True))))
        print(self.rows[-1], flush=True)

    def measure_plain(self, count: int) -> PlainLanguage:
        plain = PlainLanguage(self.bundle.vllm_model(), self.bundle.manifest, self.given.loop_threads)
        for prompt in forced_prompts(self.form, self.unseen(1)[0], "warm-up"):
            plain.read(prompt)
        runs = []
        for _ in range(self.given.repeats):
            asked, before, began = self.unseen(count), plain.computed_tokens, time.perf_counter()
            for each in asked:
                for prompt in forced_prompts(self.form, each, "bench"):
                    plain.read(prompt)
            runs.append([(time.perf_counter() - began) / count, (plain.computed_tokens - before) / count])
        seconds, computed = (statistics.median(values) for values in zip(*runs, strict=True))
        self.rows.append(Row("transformers loop, forced, one after another", seconds, computed, ROUNDS, 0, 0))
        print(self.rows[-1], flush=True)
        return plain


async def _gated(gate: asyncio.Semaphore, work: Awaitable[list[Completion]]) -> list[Completion]:
    async with gate:
        return await work


async def throughput(bench: Bench) -> float:
    """Rows of the table; returns the largest difference of a feature between vLLM and the plain loop."""
    alone, many = bench.given.alone, bench.given.at_once
    engine = await VllmLanguage.start(bench.bundle, bench.options)
    await bench.measure("vLLM, forced, one after another", engine, forced, alone, 1)
    await bench.measure("vLLM, free, one after another", engine, free, alone, 1)
    await bench.measure(f"vLLM, forced, {many} at once", engine, forced, many, many)
    await bench.measure(f"vLLM, free, {many} at once", engine, free, many, many)
    checked = bench.unseen(2)
    answers = [await forced(engine, bench.form, each, "check") for each in checked]
    await engine.close()
    engine = await VllmLanguage.start(bench.bundle, replace(bench.options, prefix_caching=False))
    await bench.measure("no prefix cache, forced, one after another", engine, forced, alone, 1)
    await bench.measure(f"no prefix cache, forced, {many} at once", engine, forced, many, many)
    await engine.close()
    plain = bench.measure_plain(alone)
    differences = [
        np.abs(plain.read(prompt) - completion.features[0].vector).max()
        for each, completions in zip(checked, answers, strict=True)
        for prompt, completion in zip(forced_prompts(bench.form, each, "check"), completions, strict=True)
    ]
    return float(max(differences))


async def sensitivity(bench: Bench) -> list[str]:
    """bfloat16 without a prefix cache, so that every run computes everything: alone, beside others, in float32."""
    asked = bench.unseen(bench.given.at_once)
    half = replace(bench.options, dtype="bfloat16", prefix_caching=False)
    engine = await VllmLanguage.start(bench.bundle, half)
    runs = {"alone": await _features(bench, engine, asked, 1)}
    runs["alone, again"] = await _features(bench, engine, asked, 1)
    runs[f"{len(asked)} at once"] = await _features(bench, engine, asked, len(asked))
    await engine.close()
    engine = await VllmLanguage.start(bench.bundle, replace(half, dtype="float32"))
    runs["float32, alone"] = await _features(bench, engine, asked, 1)
    runs[f"float32, {len(asked)} at once"] = await _features(bench, engine, asked, len(asked))
    await engine.close()
    decoded = {name: await decode(bench.bundle, asked, features) for name, features in runs.items()}
    many = f"{len(asked)} at once"
    pairs = [("alone", "alone, again"), ("alone", many), ("float32, alone", "alone")]
    pairs += [("float32, alone", f"float32, {many}")]
    threshold = bench.bundle.manifest.judge.threshold
    return [_moved(first, second, decoded, threshold) for first, second in pairs]


async def _features(
    bench: Bench, engine: VllmLanguage, asked: Sequence[BenchmarkDialogue], at_once: int
) -> list[F32]:
    gate = asyncio.Semaphore(at_once)
    answers = await asyncio.gather(*(_gated(gate, forced(engine, bench.form, each, "s")) for each in asked))
    return [np.stack([completion.features[0].vector for completion in each]) for each in answers]


def _moved(first: str, second: str, decoded: dict[str, Decoded], threshold: float) -> str:
    m = moved(decoded[first], decoded[second], threshold)
    return (
        f"| {first} → {second} | {m.feature[0]:.2g} / {m.feature[1]:.2g} | {m.score[0]:.2g} / {m.score[1]:.2g} "
        f"| {m.corrections} of {m.rounds} | {m.near:.1%} | {m.iou[0]:.4f} / {m.iou[1]:.4f} |"
    )


def conditions(bench: Bench) -> str:
    manifest = bench.bundle.manifest
    return (
        f"{manifest.name} {manifest.version}, {manifest.tower.tokens} image tokens; "
        f"{bench.options.dtype}, blocks of {bench.options.block_size or 'the default size'}, "
        f"{bench.given.repeats} repeats; {platform.machine()}, {usable_cpus()} CPUs, "
        f"load {os.getloadavg()[0]:.1f}. Figures are a dialogue's."
    )


def ways(bench: Bench, difference: float) -> list[str]:
    lines = [
        f"{ROUNDS} rounds a dialogue; {bench.given.loop_threads} threads for the loop. "
        f"Largest difference of a feature from the loop's: {difference:.1e}.",
        "",
        "| way | s | prompt tokens computed | passes | tokens sampled | engine steps |",
        "|---|---|---|---|---|---|",
    ]
    for row in bench.rows:
        counts = f"{row.computed:.0f} | {row.passes:g} | {row.generated:.1f} | {row.steps:.1f}"
        lines.append(f"| {row.way} | {row.seconds:.4f} | {counts} |")
    return lines


def movement(moves: Sequence[str]) -> list[str]:
    return [
        "| bfloat16, no prefix cache | feature, largest / mean | score | corrections that differ "
        "| scores within 0.01 of the threshold | mask IoU, smallest / mean |",
        "|---|---|---|---|---|---|",
        *moves,
    ]


async def run(given: argparse.Namespace) -> str:
    bundle = load_bundle(given.bundle)
    options = VllmOptions(batch_invariant=given.batch_invariant) if given.gpu else ON_CPU
    bench = Bench(bundle, options, given)
    lines = [conditions(bench)]
    if "throughput" in given.sections:
        lines += ["", *ways(bench, await throughput(bench))]
    if "sensitivity" in given.sections and bundle.manifest.judge.present:
        lines += ["", *movement(await sensitivity(bench))]
    if "rows" in given.sections:
        lines += ["", *await chosen_rows(bundle, options, given.slices, given.alone, given.repeats)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.language", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--slices", type=Path, default=Path("models/mediround-lite/slices"))
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--alone", type=int, default=8, help="dialogues asked one after another")
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--loop-threads", type=int, default=1, help="1 is best for a small model beside other work"
    )
    parser.add_argument("--gpu", action="store_true", help="vLLM's defaults for a GPU, bfloat16")
    parser.add_argument("--batch-invariant", action="store_true", help="vLLM's own mode; GPUs only")
    given = parser.parse_args()
    if given.batch_invariant and not given.gpu:
        parser.error("--batch-invariant must be left out unless --gpu is given")
    given.out.mkdir(parents=True, exist_ok=True)
    text = asyncio.run(run(given))
    (given.out / f"language-{given.bundle.name}.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
