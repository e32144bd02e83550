"""One server of sessions in this process, on time that a test turns, which may fail, be killed and started again.

Knows scripted engines and the two stores. Does not know what is asked, or what the answers must be.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from serving.api.description import ServerDescription
from serving.api.image_cache import ImageCache
from serving.api.limits import Limits
from serving.api.records import EngineRecords
from serving.api.service import SegmentationService
from serving.geometry import Geometry
from serving.observer import NullObserver
from serving.offline import compose
from serving.ports import Prompt
from serving.prompt import PromptTemplate
from serving.stores.embeddings import MemoryEmbeddings
from serving.stores.kept.sessions import KeptSessions
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.sessions import SessionFile
from tests.scripted.language import ScriptedLanguage
from tests.scripted.sessions import file_sessions
from tests.scripted.vision import ScriptedVision
from tests.unit.schedules.calls import Call, Edge, Reply
from tests.unit.schedules.faults import ENGINES, STORE, FailingConnection, Inline, Trouble, fail_engine
from tests.unit.serving.manifests import manifest
from tests.unit.serving.test_prompt import Characters

T = TypeVar("T")

IDLE, GIVE_WAY, LIFETIME = 60.0, 10.0, 1000.0
MAX_ROUNDS = 10
SIDE = 32
MODEL = manifest(
    image={"side": 64, "preprocessing": "sam_mean_std", "embedding": (256, 4, 4), "logits_side": 64},
    language=manifest().language.model_dump() | {"max_tokens": 4000},
)
DIGEST = "d" * 64
GEOMETRY = Geometry(MODEL.image, MODEL.tower, "e" * 64)
FORM = PromptTemplate(MODEL, Characters())
LIMITS = Limits(
    max_image_bytes=1 << 16,
    max_image_pixels=1 << 14,
    max_aspect_ratio=4,
    max_rounds=MAX_ROUNDS,
    max_question_bytes=64,
    max_sessions=64,
    session_idle_timeout=IDLE,
    session_lifetime=LIFETIME,
    max_concurrent_rounds=8,
    max_concurrent_uploads=4,
    upload_timeout=60.0,
)
IMAGES = [np.random.default_rng(seed).integers(1, 256, (SIDE, SIDE, 3), np.uint8).tobytes() for seed in range(2)]
"""Raw pixels."""


def _letter(prompt: Prompt) -> tuple[tuple[int, ...], bool]:
    """It depends on all that was asked and answered, and so does whether there is a mask."""
    total = sum(prompt.token_ids)
    return Characters().encode(chr(ord("a") + total % 26) + " "), bool(total % 5)


class World:
    """``directory``: of the sessions' file; None: they lie in memory alone. ``images``: the file holds them, too.
    ``room``: for so many sessions in memory.
    """

    def __init__(self, directory: Path | None = None, *, images: bool = False, room: int = 64) -> None:
        self.directory, self.images, self.room = directory, images, room
        self.now = 1_000_000.0
        self._loop = asyncio.new_event_loop()
        self._passes = self._lives = 0
        self._start()

    @property
    def durable(self) -> bool:
        return self.directory is not None

    @property
    def passes(self) -> int:
        """Of the language half, in all."""
        return self._passes + len(self._language.script.calls)

    def call(self, call: Call) -> Reply:
        return self._run(self._reply(call))

    def trouble(self, call: Call, trouble: Trouble) -> Reply:
        """What a caller is told whom that befalls. All is well afterwards."""
        reply = Reply()
        if trouble.kind in STORE and self._connection is not None:
            self._connection.fail(STORE[trouble.kind][0], trouble.number % 24)
        elif trouble.kind in ENGINES:
            operation = ENGINES[trouble.kind]
            script = self._language.script if operation == "complete" else self._vision.script
            fail_engine(script, operation, trouble.number)
        most = trouble.number % 4 if trouble.kind == "answer lost" else None
        steps = trouble.number if trouble.kind in {"cut", "killed"} else None
        self._run(self._interrupted(self._edge.carry_out(call, reply, most), steps, dies=trouble.kind == "killed"))
        if trouble.kind == "killed":
            self.kill(crashed=True)
        self._mend()
        return reply

    def twice(self, call: Call) -> tuple[Reply, Reply]:
        """It comes twice at once."""

        async def both() -> tuple[Reply, Reply]:
            return await asyncio.gather(self._reply(call), self._reply(call))

        return self._run(both())

    def let_pass(self, seconds: float) -> None:
        """Then the timer sweeps."""
        self.now += seconds

        async def sweep() -> None:
            self._store.sweep()
            for _ in range(20):  # what it deletes is deleted in a task
                await asyncio.sleep(0)

        self._run(sweep())

    def kill(self, *, crashed: bool = False) -> None:
        """What is in memory is gone; what is in the file is as it is, or as it was when the server ``crashed``."""
        if self.durable and not crashed:
            self._copy()
        self._stop()
        self._lives += 1
        self._start()

    def kept(self) -> tuple[int, int]:
        """Sessions and rounds in the file."""
        assert self.durable
        with sqlite3.connect(self._file()) as connection:
            [(sessions,)] = connection.execute("SELECT count(*) FROM sessions")
            [(rounds,)] = connection.execute("SELECT count(*) FROM rounds")
        connection.close()
        return sessions, rounds

    def close(self) -> None:
        self._stop()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)  # a Runner shows each task to the signal module: slow

    async def _reply(self, call: Call) -> Reply:
        # A task, for each call has a context of its own.
        return await asyncio.create_task(self._edge.carry_out(call, Reply()))

    async def _interrupted(self, work: Coroutine[Any, Any, Reply], steps: int | None, *, dies: bool) -> None:
        """End the work after so many steps of the loop; where the server dies, the file is as it was then."""
        task = asyncio.create_task(work)
        if steps is not None:
            for _ in range(steps):
                await asyncio.sleep(0)
            if dies and self.durable:
                self._copy()
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    def _mend(self) -> None:
        self._language.script.mend()
        self._vision.script.mend()
        if self._connection is not None:
            self._connection.mend()

    def _file(self, later: int = 0) -> Path:
        assert self.directory is not None
        return self.directory / f"{self._lives + later}.db"

    def _copy(self) -> None:
        """Of the file as it is between two statements: what the next server finds."""
        for end in ("", "-wal"):
            if Path(f"{self._file()}{end}").exists():
                shutil.copyfile(f"{self._file()}{end}", f"{self._file(1)}{end}")

    def _start(self) -> None:
        self._language, self._vision = ScriptedLanguage(MODEL, _letter), ScriptedVision(MODEL)
        self._stack = AsyncExitStack()
        self._connection: FailingConnection | None = None
        self._store = self._run(self._stack.enter_async_context(self._sessions()))
        described = ServerDescription(MODEL, DIGEST, "0.1.0", LIMITS, {})
        records = EngineRecords(described)
        made = compose(
            FORM,
            GEOMETRY,
            self._language,
            self._vision,
            Inline(),
            embeddings=MemoryEmbeddings.of(MODEL.image, 4 * 256 * 4 * 4 * 4),
            sessions=self._store,
            max_rounds=MAX_ROUNDS,
            model_digest=DIGEST,
            engine_digest=records.digest_of,
        )
        orchestrator = replace(made, keeper=replace(made.keeper, clock=self._clock))
        uploads = ImageCache(1 << 20, IDLE, self._clock)
        self._edge = Edge(
            SegmentationService(orchestrator, described, uploads, Inline(), NullObserver(), records=records)
        )

    def _stop(self) -> None:
        self._passes += len(self._language.script.calls)
        self._run(self._stack.aclose())

    def _clock(self) -> float:
        return self.now

    @asynccontextmanager
    async def _sessions(self) -> AsyncIterator[MemorySessions | KeptSessions]:
        clock: Callable[[], float] = self._clock
        live = MemorySessions(
            self.room, 1 << 28, IDLE, clock, give_way_after_s=GIVE_WAY, lifetime_s=LIFETIME, parks=self.durable
        )
        if not self.durable:
            yield live
            return
        async with file_sessions(
            SessionFile(self._file()),
            live,
            Inline(),
            lifetime_s=LIFETIME,
            images=self.images,
            clock=clock,
            manifest=MODEL,
        ) as store:
            database: Any = store._records._database  # of a thread of its own, which nothing here replaces
            database._thread.shutdown()
            database._thread, self._connection = Inline(), FailingConnection(database._connection)
            database._connection = self._connection
            yield store
