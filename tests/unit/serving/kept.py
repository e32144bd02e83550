"""A session to be kept, of true references, and a process that changes it until it is killed."""

from __future__ import annotations

import asyncio
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving.domain import CacheUse, Segmentation, SourceImage, Timings
from serving.geometry import Geometry
from serving.history import changes
from serving.history.record import RequestKey, Session, SessionRecord
from serving.history.rounds import MaskSource, ReferredMask, Round, RoundResult, UsedReference
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.sessions import SessionFile
from tests.scripted.pictures import mask
from tests.scripted.sessions import file_sessions
from tests.unit.serving.manifests import manifest

MODEL = manifest()
GEOMETRY = Geometry(MODEL.image, MODEL.tower, "e" * 64)
WORDS = "Is the liver enlarged?"
CALLER = "x509_subject:CN=Anna Example"
SIDE = 32


def image(side: int = SIDE) -> SourceImage:
    pixels = np.random.default_rng(side).integers(1, 256, (side, side, 3), np.uint8)
    return GEOMETRY.source_image(pixels)


def new(session_id: str = "s", side: int = SIDE, *, keep: bool = True) -> Session:
    record = SessionRecord(session_id, CALLER, (side, side), b"c" * 32, "d" * 64, keep, opened_at=7.25)
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


async def keep_on(path: Path) -> None:
    """Change a session for ever, and print the number of changes that were acknowledged."""
    live = MemorySessions(8, 1 << 26, 60.0, lambda: 0.0, parks=True)
    with ThreadPoolExecutor(2) as executor:
        async with file_sessions(SessionFile(path, key=bytes(32)), live, executor, images=True) as store:
            await store.create(new())
            for number in itertools.count():
                async with store.exclusive("s", CALLER) as held:
                    await store.commit(step(held.record, number))
                print(number + 1, flush=True)


if __name__ == "__main__":
    asyncio.run(keep_on(Path(sys.argv[1])))
