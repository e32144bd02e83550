"""The published protocol on the same graphs: every round encodes the image and reads the whole dialogue again.

It is the service's own orchestrator with nothing kept between rounds, or the image's embedding alone, and no gRPC,
so that what is compared is the protocol and not the code. Run as a process of its own, so that its memory is its
own; prints JSON. Does not know how the service is run.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.workload import Case, case, image, questions
from loadtest.server_process import peak_memory
from serving.bundle import load_bundle
from serving.domain import F32, AnswerMode, Correction, CorrectionPolicy, Question
from serving.llm.onnx import OnnxLanguage
from serving.offline import offline
from serving.orchestrator import Orchestrator
from serving.vision.onnx import OnnxVision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from serving.ports import EmbeddingLease, Fill


EMBEDDING_KEPT = "embedding-kept"
"""The last word of the command, where the image is encoded once."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """A lease on memory that is thrown away."""

    key: str
    values: F32
    hit: bool = False
    slot: None = None
    encoder: None = None


class NothingKept:
    """An EmbeddingStore that forgets at once."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape

    async def acquire(self, key: str, fill: Fill) -> EmbeddingLease:
        lease = Scratch(key, np.empty(self._shape, np.float32))
        await fill(lease)
        return lease

    def release(self, lease: EmbeddingLease) -> None:
        """Nothing is held."""

    def holds(self, key: str) -> bool:  # noqa: ARG002  # EmbeddingStore's signature
        return False

    def demote(self, key: str) -> None:
        """Nothing is held."""

    async def settled(self, key: str) -> bool:  # noqa: ARG002  # EmbeddingStore's signature
        """Nothing is on its way that another could use."""
        return False


@dataclass(frozen=True, slots=True)
class Published:
    """Runs cases by the published protocol."""

    orchestrator: Orchestrator
    language: OnnxLanguage
    vision: OnnxVision

    async def run(self, case: Case, seeds: list[int]) -> float:
        """Seconds for one dialogue a seed, ``case.concurrency`` at once."""
        gate = asyncio.Semaphore(case.concurrency)

        async def one(seed: int) -> None:
            async with gate:
                await self._dialogue(case, seed)

        began = time.perf_counter()
        await asyncio.gather(*(one(seed) for seed in seeds))
        return time.perf_counter() - began

    async def _dialogue(self, case: Case, seed: int) -> None:
        session = await self.orchestrator.open("benchmark", image(seed))
        correction = Correction(CorrectionPolicy.ALWAYS, self.orchestrator.form.manifest.judge.threshold)
        for asked in questions(case):
            question = Question(asked.text, asked.refer_to, AnswerMode.FORCED, asked.answer)
            await self.orchestrator.ask(session.session_id, "benchmark", question, correction)
        await self.orchestrator.close(session.session_id, "benchmark")


@asynccontextmanager
async def published(directory: Path, threads: int, *, embedding_kept: bool = False) -> AsyncIterator[Published]:
    bundle = load_bundle(directory)
    language, vision = OnnxLanguage(bundle, threads, cache_bytes=0), OnnxVision(bundle, threads)
    kept = None if embedding_kept else NothingKept(bundle.manifest.image.embedding)
    async with offline(bundle, threads, language=language, vision=vision, embeddings=kept) as orchestrator:
        yield Published(orchestrator, language, vision)


async def _main(directory: Path, threads: int, measured: Case, seeds: list[int], embedding_kept: bool) -> None:
    async with published(directory, threads, embedding_kept=embedding_kept) as protocol:
        await protocol.run(Case("chain", 2, 1), [0])  # warm up
        passes, encodes = protocol.language.counts.passes, protocol.vision.counts.encodes
        seconds = await protocol.run(measured, seeds)
        figures = {
            "seconds": seconds,
            "passes": protocol.language.counts.passes - passes,
            "encodes": protocol.vision.counts.encodes - encodes,
            "peak_bytes": peak_memory(),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    bundle_path, thread_count, measured_case, seed_list, *more = sys.argv[1:]
    asked = case(measured_case)
    asyncio.run(
        _main(Path(bundle_path), int(thread_count), asked, json.loads(seed_list), more == [EMBEDDING_KEPT])
    )
