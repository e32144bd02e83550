"""The language server's front end: CPU of its process for a prompt, beside vLLM's own processes.

Knows prompts of live rounds, each with the pictures of those before it. Does not know servers, or what a prompt is
answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.ceiling.instant import published
from loadtest.server_process import Launched
from serving.bundle import Bundle, load_bundle
from serving.domain import Rectangle, Reference, TowerImage
from serving.llm.remote import RemoteLanguage
from serving.ports import Prompt

WORDS = 12
"""Tokens of a round's words."""
_KIND_BITS, _SCHEDULED = 3, 2
"""How Linux numbers the clock of a process's CPU time, to the nanosecond; /proc counts hundredths of a second."""


@dataclass(slots=True)
class FrontEnd:
    """One language server, and the milliseconds of CPU that it took for each prompt, by round."""

    server: Launched
    bundle: Bundle
    milliseconds: dict[int, list[float]] = field(default_factory=dict)

    def measure(self, rounds: int, dialogues: int, seed: int) -> None:
        asyncio.run(self._measure(rounds, dialogues, seed))

    async def _measure(self, rounds: int, dialogues: int, seed: int) -> None:
        language = RemoteLanguage([self.server.address], self.bundle, rounds)
        try:
            await language.reached()
            for number in range(rounds):
                prompts = [prompt(self.bundle, number, seed + k) for k in range(dialogues)]
                before = cpu_seconds(self.server.pid)
                await asyncio.gather(*(language.complete(each) for each in prompts))
                used = (cpu_seconds(self.server.pid) - before) / dialogues * 1e3
                self.milliseconds.setdefault(number, []).append(used)
        finally:
            await language.close()


def at_published_sizes(directory: Path) -> Bundle:
    """As the server has it."""
    bundle = load_bundle(directory)
    return Bundle(bundle.directory, published(bundle.manifest), bundle.digest)


def cpu_seconds(pid: int) -> float:
    """That a process used so far, in all its threads, without its children. Linux only."""
    return time.clock_gettime(~pid << _KIND_BITS | _SCHEDULED)


def prompt(bundle: Bundle, number: int, seed: int) -> Prompt:
    """Of round ``number`` of a chain: the image, and a crop of each round before."""
    tokens = bundle.manifest.tokens
    ids = [tokens.bos, tokens.image, *range(300, 300 + WORDS)]
    for _ in range(number):
        ids += [tokens.crop, tokens.bbox, *range(300, 300 + WORDS)]
    return Prompt(
        dialogue=f"{seed}",
        tenant="benchmark",
        token_ids=tuple(ids),
        image=_picture(bundle, seed, 0),
        references=tuple(_reference(bundle, seed, k + 1) for k in range(number)),
        feature_positions=(len(ids) - 1,),
        max_new_tokens=0,
        ensure_seg=False,
    )


def _reference(bundle: Bundle, seed: int, number: int) -> Reference:
    box, rectangle = np.array([0.1, 0.2, 0.3, 0.4], np.float32), Rectangle(1, 1, 2, 2)
    return Reference(number, _picture(bundle, seed, number), rectangle, box, rectangle, whole_image=False)


def _picture(bundle: Bundle, seed: int, number: int) -> TowerImage:
    side = bundle.manifest.tower.side
    pixels = np.random.default_rng([seed, number]).integers(0, 256, (side, side, 3), np.uint8)
    return TowerImage(hashlib.sha256(pixels.data).hexdigest(), pixels)
