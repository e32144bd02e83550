"""One server of sessions in this process, on time that a test turns, which may be killed and started again.

Knows scripted engines and the two stores. Does not know what is asked, or what the answers must be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from serving.geometry import Geometry
from serving.offline import compose
from serving.orchestrator import Orchestrator
from serving.ports import Prompt
from serving.prompt import PromptTemplate
from serving.sessions.keeper import SessionKeeper
from serving.stores.embeddings import MemoryEmbeddings
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.sessions import SessionFile, SqliteSessions
from tests.scripted.language import ScriptedLanguage
from tests.scripted.sessions import file_sessions
from tests.scripted.vision import ScriptedVision
from tests.unit.serving.manifests import manifest
from tests.unit.serving.test_prompt import Characters

T = TypeVar("T")

IDLE, LIFETIME = 60.0, 1e6
MAX_ROUNDS = 12
SIDE = 32
MODEL = manifest(
    image={"side": 64, "preprocessing": "sam_mean_std", "embedding": (256, 4, 4), "logits_side": 64},
    language=manifest().language.model_dump() | {"max_tokens": 4000},
)
GEOMETRY = Geometry(MODEL.image, MODEL.tower, "e" * 64)
FORM = PromptTemplate(MODEL, Characters())
IMAGES = [
    GEOMETRY.source_image(np.random.default_rng(seed).integers(1, 256, (SIDE, SIDE, 3), np.uint8))
    for seed in range(2)
]


def _letter(prompt: Prompt) -> tuple[tuple[int, ...], bool]:
    """It depends on all that was asked and answered."""
    return Characters().encode(chr(ord("a") + sum(prompt.token_ids) % 26) + " "), True


class World:
    """``path``: of the sessions' file; None: they lie in memory alone. ``images``: the file holds them, too."""

    def __init__(self, executor: Executor, path: Path | None = None, *, images: bool = False) -> None:
        self.executor, self.path, self.images = executor, path, images
        self.now = 1_000_000.0
        self._loop = asyncio.new_event_loop()
        self._passes = 0
        self._start()

    @property
    def passes(self) -> int:
        """Of the language half, in all."""
        return self._passes + len(self.language.script.calls)

    @property
    def keeper(self) -> SessionKeeper:
        return self.orchestrator.keeper

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)  # a Runner shows each task to the signal module: slow

    def park(self) -> None:
        """Let nothing be asked for so long that sessions leave the memory."""
        self.now += IDLE
        self.run(self._sweep())

    def kill(self) -> None:
        """What is in memory is gone; what is in the file is as it is."""
        self._stop()
        self._start()

    def close(self) -> None:
        self._stop()
        self._loop.close()

    async def _sweep(self) -> None:
        self.store.sweep()

    def _start(self) -> None:
        self.language, vision = ScriptedLanguage(MODEL, _letter), ScriptedVision(MODEL)
        self._stack = AsyncExitStack()
        self.store = self.run(self._stack.enter_async_context(self._sessions()))
        embeddings = MemoryEmbeddings.of(MODEL.image, 4 * 256 * 4 * 4 * 4)
        made = compose(
            FORM,
            GEOMETRY,
            self.language,
            vision,
            self.executor,
            embeddings=embeddings,
            sessions=self.store,
            max_rounds=MAX_ROUNDS,
            model_digest="d" * 64,
        )
        self.orchestrator: Orchestrator = replace(made, keeper=replace(made.keeper, clock=self._clock))

    def _stop(self) -> None:
        self._passes += len(self.language.script.calls)
        self.run(self._stack.aclose())

    def _clock(self) -> float:
        return self.now

    @asynccontextmanager
    async def _sessions(self) -> AsyncIterator[MemorySessions | SqliteSessions]:
        parks = self.path is not None
        live = MemorySessions(64, 1 << 28, IDLE, self._clock, lifetime_s=LIFETIME, parks=parks)
        if self.path is None:
            yield live
            return
        file, clock = SessionFile(self.path), self._clock
        async with file_sessions(
            file, live, self.executor, lifetime_s=LIFETIME, images=self.images, clock=clock, manifest=MODEL
        ) as store:
            yield store
