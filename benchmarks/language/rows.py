"""Every feature of a wave as a request of its own, against chosen rows: one request a wave.

Dialogues known in advance, answers forced, on one engine and in turn. Counts come beside times: they carry over
to other models and machines. Knows shapes of dialogues. Does not know how rows are chosen.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.language.dialogues import BenchmarkDialogue, Shape, shaped, wave_prompts
from serving.bundle import Bundle
from serving.domain import F32, AnswerMode, Question
from serving.llm.vllm_engine import VllmLanguage
from serving.llm.vllm_options import VllmOptions, environment
from serving.llm.vllm_requests import requests
from serving.ports import LanguageEngine
from serving.prompt import PromptTemplate

SHAPES: tuple[tuple[Shape, int], ...] = (("star", 5), ("star", 10), ("none", 5), ("none", 10), ("chain", 5))
NAMES = {"star": "star", "none": "no references", "chain": "chain"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one dialogue."""

    seconds: float
    computed: float
    """Prompt tokens."""
    requests: float
    steps: float
    """Engine steps that sampled; the dialogues of a step share it."""


@dataclass(frozen=True, slots=True)
class RowsCase:
    shape: Shape
    rounds: int
    image: str
    """new: no cache has seen it. warm: another dialogue was about it. again: so was this very dialogue."""
    at_once: int


def cases() -> list[RowsCase]:
    series = itertools.product(SHAPES, ("new", "warm"), (1, 8))
    repeated = [RowsCase(shape, 10, "again", 1) for shape in ("star", "none")]
    return [RowsCase(*shape, image, many) for shape, image, many in series] + repeated


class RowsBench:
    """Images are numbered through, so that none is asked twice unawares."""

    def __init__(self, bundle: Bundle, slices: Path, count: int, repeats: int) -> None:
        self.bundle, self.slices, self.count, self.repeats = bundle, slices, count, repeats
        self.form = PromptTemplate.of(bundle)
        self._numbers = itertools.count(step=count)

    async def cost(self, engine: VllmLanguage, case: RowsCase) -> Cost:
        first = next(self._numbers)
        asked = shaped(self.bundle, self.slices, case.shape, case.rounds, self.count, first)
        if case.image == "warm":
            await asyncio.gather(*(waves(engine, self.form, _other(each)) for each in asked))
        elif case.image == "again":
            await asyncio.gather(*(waves(engine, self.form, each) for each in asked))
        gate, before = asyncio.Semaphore(case.at_once), engine.counts

        async def gated(dialogue: BenchmarkDialogue) -> None:
            async with gate:
                await waves(engine, self.form, dialogue)

        began = time.perf_counter()
        await asyncio.gather(*(gated(each) for each in asked))
        seconds, after = time.perf_counter() - began, engine.counts
        spent = (
            seconds,
            after.computed_tokens - before.computed_tokens,
            after.requests - before.requests,
            after.steps - before.steps,
        )
        return Cost(*(value / self.count for value in spent))

    async def line(self, apart: VllmLanguage, together: VllmLanguage, case: RowsCase) -> str:
        pairs = [(await self.cost(apart, case), await self.cost(together, case)) for _ in range(self.repeats)]
        first, second = (_median(costs) for costs in zip(*pairs, strict=True))
        ratios = [one.seconds / other.seconds for one, other in pairs]
        return (
            f"| {NAMES[case.shape]}, {case.rounds} | {case.image} | {case.at_once} "
            f"| {first.seconds * 1e3:.1f} → {second.seconds * 1e3:.1f} "
            f"| {statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f}) "
            f"| {first.computed:.0f} → {second.computed:.0f} | {first.requests:g} → {second.requests:g} "
            f"| {first.steps:.1f} → {second.steps:.1f} |"
        )

    def megabytes(self, *, chosen_rows: bool) -> float:
        """Of tensors that go to vLLM for a star of ten."""
        (asked,) = shaped(self.bundle, self.slices, "star", 10, 1, next(self._numbers))
        sent = [
            item.values.nbytes
            for prompt in wave_prompts(self.form, asked, "bench")
            for request in requests(prompt, self.bundle.manifest, chosen_rows=chosen_rows)
            for item in request.image + request.crops + request.boxes
        ]
        return sum(sent) / 1e6

    async def difference(self, apart: VllmLanguage, together: VllmLanguage) -> float:
        """Largest of a feature between the two ways."""
        (asked,) = shaped(self.bundle, self.slices, "star", 10, 1, next(self._numbers))
        # Tenants of their own: neither finds a row in the other's prefixes.
        first, second = (
            await waves(apart, self.form, asked, "apart"),
            await waves(together, self.form, asked, "together"),
        )
        return float(np.abs(first - second).max())


async def waves(
    engine: LanguageEngine, form: PromptTemplate, dialogue: BenchmarkDialogue, tenant: str = "bench"
) -> F32:
    """(rounds, feature)"""
    done = [await engine.complete(prompt) for prompt in wave_prompts(form, dialogue, tenant)]
    return np.stack([feature.vector for completion in done for feature in completion.features])


def _other(dialogue: BenchmarkDialogue) -> BenchmarkDialogue:
    """One question that no dialogue asks, on its image."""
    question = Question("Is anything to be seen at all?", None, AnswerMode.FORCED, "It is the brain [SEG].")
    return replace(dialogue, questions=(question,), references=(None,))


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.computed for cost in costs),
        statistics.median(cost.requests for cost in costs),
        statistics.median(cost.steps for cost in costs),
    )


async def chosen_rows(bundle: Bundle, options: VllmOptions, slices: Path, count: int, repeats: int) -> list[str]:
    """The table: one engine, asked in both ways."""
    options = replace(options, chosen_rows=True)
    os.environ.update(environment(options))
    from serving.llm.vllm_core import VllmCore  # noqa: PLC0415  # imports vLLM, which reads the environment

    core = await VllmCore.start(bundle.vllm_model(), bundle.manifest, options)
    together = VllmLanguage(core, bundle.manifest, options)
    apart = VllmLanguage(core, bundle.manifest, replace(options, chosen_rows=False))
    bench = RowsBench(bundle, slices, count, repeats)
    difference = await bench.difference(apart, together)
    lines = [
        f"A request a feature → one request a wave; {count} dialogues, medians of {repeats} runs of each way, "
        f"in turn. Largest difference of a feature: {difference:.1e}. Tensors sent for a star of ten: "
        f"{bench.megabytes(chosen_rows=False):.1f} → {bench.megabytes(chosen_rows=True):.1f} MB.",
        "",
        "| dialogue | image | at once | ms | ratio | prompt tokens computed | requests | engine steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases():
        lines.append(await bench.line(apart, together, case))
        print(lines[-1], flush=True)
    await together.close()
    return lines
