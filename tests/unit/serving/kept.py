"""A session to be kept, of true references, and a process that changes it until it is killed."""

from __future__ import annotations

import asyncio
import itertools
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.domain import CacheUse, Segmentation, SourceImage, Timings
from serving.geometry import Geometry
from serving.history import changes
from serving.history.record import RequestKey, Session, SessionRecord
from serving.history.rounds import Amendment, MaskSource, ReferredMask, Round, RoundResult, UsedReference
from serving.ports import SessionStore
from serving.stores.redis.connection import RedisAddress
from serving.stores.redis.sessions import SessionRedis
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.sessions import SessionFile
from tests.scripted import redis
from tests.scripted.pictures import mask
from tests.scripted.sessions import file_sessions
from tests.unit.serving.manifests import manifest

MODEL = manifest()
GEOMETRY = Geometry(MODEL.image, MODEL.tower, "e" * 64)
WORDS = "Is the liver enlarged?"
CALLER = "x509_subject:CN=Anna Example"
WINDOW = "LINEAR center 40 width 400 (request), slope 1 intercept 0, 16 bits of i2"
SIDE = 32
KEY = RequestKey("d8b8b1f0-0000-4000-8000-000000000000", b"asked")


def image(side: int = SIDE) -> SourceImage:
    pixels = np.random.default_rng(side).integers(1, 256, (side, side, 3), np.uint8)
    return GEOMETRY.source_image(pixels)


def new(session_id: str = "s", side: int = SIDE, *, keep: bool = True) -> Session:
    content, model = b"c" * 32, "d" * 64
    record = SessionRecord(session_id, CALLER, (side, side), content, model, keep, opened_at=7.25, window=WINDOW)
    return Session(record, image(side))


def answered(number: int, source: MaskSource = MaskSource.ROUND) -> Round:
    """It refers to the mask of the round before; what it was shown of that is true."""
    referred = ReferredMask(mask(number - 1), source, number - 1, f"r{number - 1}", "")
    shown = GEOMETRY.reference(image(), referred.mask, referred.round)
    made = Segmentation(mask(number), 0.1 + number, corrected=True, log_probability=-1 / 3)
    used = UsedReference.of(referred, shown)
    tokens, engine = (1, -2, number), f"{number:064x}"
    return Round(f"r{number}", WORDS, "It is [SEG].", tokens, used, shown, made, engine_digest=engine)


def plain(of: object) -> object:
    """To compare: arrays as bytes."""
    if isinstance(of, np.ndarray):
        return of.tobytes()
    if isinstance(of, tuple):
        return tuple(map(plain, of))
    if hasattr(of, "__dataclass_fields__"):
        return type(of).__name__, [(name, plain(getattr(of, name))) for name in of.__dataclass_fields__]
    return of


def step(record: SessionRecord, number: int) -> SessionRecord:
    """The record after one change more: four rounds, then two of them are undone, and so on."""
    if number % 5 == 4:
        return changes.with_first_rounds(record, len(record.rounds) - 2, None)
    made, key = answered(number + 1), RequestKey(str(number), b"asked")
    result = RoundResult(len(record.rounds), made, Timings(total=0.25), CacheUse(True, 1, 2, 0))
    return changes.with_rounds(record, [made], [result], key)


async def dialogue(store: SessionStore, session_id: str = "s") -> SessionRecord:
    """Every kind of thing that a session may hold."""
    without = Round("r9", WORDS, "No.", (5,), None, None, None)
    seed = replace(answered(3), seeded=True, origin="a slice", used=None, reference=None, engine_digest="")
    seed = replace(seed, segmentation=Segmentation(mask(3), None, corrected=False, log_probability=None))
    rounds = [answered(1), answered(2, MaskSource.GIVEN), seed, without]
    results = [RoundResult(n, each, Timings(0.5, 1 / 3), CacheUse(True, 3, 4, 1)) for n, each in enumerate(rounds)]
    results[0] = replace(results[0], near_zero=mask(11))
    async with store.exclusive(session_id, CALLER) as held:
        record = changes.with_rounds(held.record, rounds, results, KEY)
        await store.commit(record)
        amended = changes.with_amendment(record, 1, Amendment(mask(8), "by hand"), replace(KEY, id="another"))
        await store.commit(amended)
        return amended


def opened(place: str, live: MemorySessions, executor: Executor) -> AbstractAsyncContextManager[SessionStore]:
    """The sessions at a path, or at a Redis of this address."""
    if "://" in place:
        return redis.kept(SessionRedis(RedisAddress(place), key=bytes(32)), live, executor, images=True)
    return file_sessions(SessionFile(Path(place), key=bytes(32)), live, executor, images=True)


async def keep_on(place: str) -> None:
    """Change a session for ever, and print the number of changes that were acknowledged."""
    live = MemorySessions(8, 1 << 26, 60.0, lambda: 0.0, parks=True)
    with ThreadPoolExecutor(2) as executor:
        async with opened(place, live, executor) as store:
            await store.create(new())
            for number in itertools.count():
                async with store.exclusive("s", CALLER) as held:
                    await store.commit(step(held.record, number))
                print(number + 1, flush=True)


if __name__ == "__main__":
    asyncio.run(keep_on(sys.argv[1]))
