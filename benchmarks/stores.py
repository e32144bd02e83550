"""``python -m benchmarks.stores``: what it costs to keep sessions in a file, or in a Redis.

The same made-up dialogues of 512x512 masks, committed round by round, each way in turn: to memory; to an SQLite
file, to one that is encrypted, and to one that outlives a loss of power; and where there is a ``redis-server``, to
two of them as child processes whose append-only files are on the same disk, one encrypted and synced every second,
one synced before each answer. No engine runs. Prints a table: milliseconds a round, bytes in the store, and how
long a parked session takes to be there again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from mediround import __version__
from serving.bundle import load_bundle
from serving.domain import CacheUse, Segmentation, SourceImage, Timings
from serving.geometry import Geometry
from serving.history import changes
from serving.history.record import RequestKey, Session, SessionRecord
from serving.history.rounds import MaskSource, ReferredMask, Round, RoundResult, UsedReference
from serving.pixels.masks import pack_mask
from serving.ports import SessionStore
from serving.runtime.cpus import usable_cpus
from serving.runtime.stopwatch import Stopwatch
from serving.stores.kept.sessions import Keeping, KeptSessions
from serving.stores.redis.connection import RedisAddress
from serving.stores.redis.sessions import SessionRedis, redis_sessions
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.sessions import SessionFile, sqlite_sessions

SIDE, ROUNDS, CALLER = 512, 30, "benchmark"
LIFETIME = 24 * 3600.0
KEY = bytes(32)


@dataclass
class Found:
    """Of one way to keep sessions."""

    round_ms: list[float] = field(default_factory=list)
    wake_ms: list[float] = field(default_factory=list)
    kib: list[float] = field(default_factory=list)
    """In the file, a session."""


def picture() -> np.ndarray:
    """Grey noise (SIDE, SIDE, 3), which hardly compresses."""
    grey = np.random.default_rng(0).normal(120, 20, (SIDE, SIDE, 1)).clip(1, 255).astype(np.uint8)
    return np.repeat(grey, 3, axis=2)


def dialogue(geometry: Geometry, image: SourceImage) -> list[Round]:
    """Rounds about blobs, each about the one before."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    ragged = np.sin(columns / 7) + np.cos(rows / 9) > 1.6
    masks = [
        pack_mask(((rows - 250) ** 2 + (columns - 200 - n) ** 2 < (40 + n) ** 2) ^ ragged)
        for n in range(ROUNDS + 1)
    ]
    rounds = []
    for number, (before, own) in enumerate(pairwise(masks)):
        referred = ReferredMask(before, MaskSource.ROUND, number, f"r{number}", "")
        shown = geometry.reference(image, before, number)
        made = Segmentation(own, 0.5, corrected=False, log_probability=-0.5)
        used = UsedReference.of(referred, shown)
        question, tokens = "Where is the liver in it?", tuple(range(60))
        rounds.append(Round(f"r{number + 1}", question, "It is [SEG].", tokens, used, shown, made))
    return rounds


@dataclass(frozen=True, slots=True)
class Asked:
    """The dialogue of every way."""

    geometry: Geometry
    image: SourceImage
    rounds: list[Round]


async def commit(store: SessionStore, session_id: str, asked: Asked) -> list[float]:
    """Milliseconds of each round, from its turn to its acknowledgement."""
    record = SessionRecord(session_id, CALLER, asked.image.size, keep=True)
    await store.create(Session(record, asked.image))
    taken = []
    for number, each in enumerate(asked.rounds):
        result = RoundResult(number, each, Timings(), CacheUse(True, 0, 0, 0))
        with Stopwatch() as watch:
            async with store.exclusive(session_id, CALLER) as held:
                key = RequestKey(f"{session_id}-{number}", b"asked")
                await store.commit(changes.with_rounds(held.record, [each], [result], key))
        taken.append(watch.seconds * 1e3)
    return taken


def memory(*, parks: bool) -> MemorySessions:
    return MemorySessions(1 << 16, 1 << 40, LIFETIME, time.monotonic, parks=parks)


def opened(
    place: SessionFile | SessionRedis, geometry: Geometry, executor: ThreadPoolExecutor
) -> AbstractAsyncContextManager[KeptSessions]:
    keeping = Keeping(LIFETIME, place.key is not None, time.time)
    if isinstance(place, SessionFile):
        return sqlite_sessions(memory(parks=True), place, keeping, geometry, executor)
    return redis_sessions(memory(parks=True), place, keeping, geometry, executor)


async def kept(place: SessionFile | SessionRedis, name: str, asked: Asked, found: Found) -> None:
    """One dialogue in a new place, then taken up again by another server."""
    with ThreadPoolExecutor(2) as executor:
        async with opened(place, asked.geometry, executor) as store:
            found.round_ms += await commit(store, name, asked)
            store.sweep()
            await asyncio.sleep(0.1)
            found.kib.append(store.stats.store_bytes / 1024)
        async with opened(place, asked.geometry, executor) as store:
            with Stopwatch() as watch:
                if place.key is None:
                    await store.resume(name, CALLER, asked.image)
                async with store.exclusive(name, CALLER):
                    pass
            found.wake_ms.append(watch.seconds * 1e3)
            await store.close(name, CALLER)


@contextmanager
def redis_servers(directory: Path) -> Iterator[dict[str, SessionRedis]]:
    """Two, which differ in when their append-only file is synced; none where Redis is not installed."""
    program, ways = shutil.which("redis-server"), dict[str, SessionRedis]()
    started = []
    try:
        for sync, name, key in (("everysec", "redis, key, image kept", KEY), ("always", "redis, power", None)):
            if program is None:
                continue
            own = directory / sync
            own.mkdir()
            flags = ["--port", "0", "--unixsocket", str(own / "s"), "--dir", str(own), "--save", ""]
            flags += ["--appendonly", "yes", "--appendfsync", sync]
            started.append(subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL))  # noqa: S603  # Debian's own
            while not (own / "s").exists():
                time.sleep(0.05)
            ways[name] = SessionRedis(RedisAddress(f"unix://{(own / 's').resolve()}"), key=key)
        yield ways
    finally:
        for each in started:
            each.terminate()
            each.wait()


async def measure(geometry: Geometry, directory: Path, repeats: int) -> dict[str, Found]:
    """Each way in turn, so that a drifting machine meets all alike."""
    image = geometry.source_image(picture())
    asked, in_memory, found = Asked(geometry, image, dialogue(geometry, image)), Found(), dict[str, Found]()
    ways: dict[str, SessionFile | SessionRedis] = {
        "sqlite": SessionFile(directory / "plain.db"),
        "sqlite, key, image kept": SessionFile(directory / "key.db", key=KEY),
        "sqlite, power": SessionFile(directory / "power.db", "power"),
    }
    with redis_servers(directory) as servers:
        for number in range(repeats):
            in_memory.round_ms += await commit(memory(parks=False), "s", asked)
            for name, place in {**ways, **servers}.items():
                if isinstance(place, SessionFile):
                    place.path.unlink(missing_ok=True)
                await kept(place, f"s{number}", asked, found.setdefault(name, Found()))
    return {"memory": in_memory, **found}


def report(found: dict[str, Found], repeats: int) -> str:
    lines = [
        f"{SIDE}x{SIDE}, dialogues of {ROUNDS} rounds, {repeats} of each, {platform.machine()}, "
        f"{usable_cpus()} CPUs, load {os.getloadavg()[0]:.1f}; medians.",
        "",
        "| store | ms a round | p95 | KiB in the store | ms until a parked one is there |",
        "|---|---|---|---|---|",
    ]
    for name, each in found.items():
        p95 = statistics.quantiles(each.round_ms, n=20)[-1]
        rest = [f"{statistics.median(values):.0f}" if values else "-" for values in (each.kib, each.wake_ms)]
        lines.append(f"| {name} | {statistics.median(each.round_ms):.2f} | {p95:.2f} | {' | '.join(rest)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stores", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"), help="its geometry is used")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="and the disk that is measured")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    geometry = Geometry.of(load_bundle(options.bundle))
    with tempfile.TemporaryDirectory(dir=options.out) as directory:
        found = asyncio.run(measure(geometry, Path(directory), options.repeats))
    text = report(found, options.repeats)
    (options.out / "stores.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
