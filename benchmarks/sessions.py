"""``python -m benchmarks.sessions``: what it takes to go on in a session of ten rounds, and what requests weigh.

The next question of the same dialogue, on the bundle's real graphs: by the server that answered the others; by one
that was just started, on the same file; by one that is given the rounds again, as a client replays a lost session;
and by one that is asked them all anew. Reads of the file, encodes and language passes are counted, so that these
hold on any machine; times, best those of the CPU, are read as ratios. Then the bytes of thirty requests of one
session, as they leave the client. Prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from demo.slices import dialogues
from loadtest.server_process import launched
from mediround import Client, __version__
from serving.bundle import Bundle, load_bundle
from serving.domain import U8, AnswerMode, Correction, CorrectionPolicy, EncoderImage, Question
from serving.geometry import Geometry
from serving.llm.onnx import OnnxLanguage
from serving.observer import NullObserver
from serving.offline import PREFIX_BYTES, compose
from serving.orchestrator import Orchestrator
from serving.ports import Completion, EmbeddingLease, Prompt
from serving.prompt import PromptTemplate
from serving.runtime.cpus import usable_cpus
from serving.runtime.record import RuntimeRecord
from serving.runtime.stopwatch import Stopwatch
from serving.sessions.keeper import NewSession
from serving.stores.kept.parts import Parts
from serving.stores.kept.records import Stored, StoreLimits
from serving.stores.kept.seal import Seal
from serving.stores.kept.sessions import Keeping, KeptSessions
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.database import Database
from serving.stores.sqlite.records import SqliteRecords
from serving.stores.sqlite.schema import connect
from serving.vision.onnx import OnnxVision

ROUNDS, REQUESTS, CALLER = 10, 30, "benchmark"
LIFETIME = 24 * 3600.0
KEY = bytes(32)
SLICES = Path("models/mediround-lite/slices")
OFF = Correction(CorrectionPolicy.OFF, 0.5)


class CountedRecords(SqliteRecords):
    reads = 0

    async def get(self, session_id: str, caller: str, *, image: bool) -> Stored:
        self.reads += 1
        return await super().get(session_id, caller, image=image)


class CountedLanguage(OnnxLanguage):
    passes = 0

    async def complete(self, prompt: Prompt) -> Completion:
        self.passes += 1
        return await super().complete(prompt)


class CountedVision(OnnxVision):
    encodes = 0

    async def encode(self, image: EncoderImage, lease: EmbeddingLease) -> RuntimeRecord:
        self.encodes += 1
        return await super().encode(image, lease)


@dataclass(frozen=True, slots=True)
class Work:
    """What something took."""

    reads: int
    encodes: int
    passes: int
    seconds: float
    cpu: float
    """Seconds of this process, on all its threads: what other work on the machine changes little."""


@dataclass(frozen=True, slots=True)
class Started:
    """A server, but for gRPC, with what it counts."""

    orchestrator: Orchestrator
    records: CountedRecords
    language: CountedLanguage
    vision: CountedVision

    async def open(self, session_id: str, pixels: U8) -> None:
        keeper = self.orchestrator.keeper
        await keeper.open(NewSession(CALLER, session_id, keep=True), await keeper.prepare(pixels))

    async def asked(self, session_id: str, questions: list[Question]) -> Work:
        """What it takes to answer these, as one dialogue."""
        reads, encodes, passes = self.records.reads, self.vision.encodes, self.language.passes
        cpu = time.process_time()
        with Stopwatch() as watch:
            async for _ in self.orchestrator.segment(session_id, CALLER, questions, OFF):
                pass
        counted = self.records.reads - reads, self.vision.encodes - encodes, self.language.passes - passes
        return Work(*counted, watch.seconds, time.process_time() - cpu)


@asynccontextmanager
async def started(bundle: Bundle, path: Path, threads: int) -> AsyncIterator[Started]:
    """One that holds nothing of any session, on this file; its graphs are warm."""
    geometry, parts, limits = Geometry.of(bundle), Parts(Seal(KEY)), StoreLimits()
    live = MemorySessions(64, 1 << 30, LIFETIME, time.monotonic, parks=True)
    with ThreadPoolExecutor(2) as pixels:
        database = Database(connect(path, "process", limits.max_bytes, parts), NullObserver())
        records = CountedRecords(database, parts, limits)
        store = KeptSessions(live, records, Keeping(LIFETIME, True, time.time), geometry, pixels)
        language, vision = CountedLanguage(bundle, threads, PREFIX_BYTES), CountedVision(bundle, threads)
        form = PromptTemplate.of(bundle)
        made = compose(form, geometry, language, vision, pixels, sessions=store, model_digest=bundle.digest)
        try:
            warm = await made.open(CALLER, picture(0))
            async for _ in made.segment(warm.session_id, CALLER, dialogue(2), OFF):
                pass
            yield Started(made, records, language, vision)
        finally:
            await store.stop()
            await database.close()
            await language.close()
            await vision.close()


def picture(seed: int) -> U8:
    """A slice with a grey level of noise, so that no cache has seen it; uint8 (H, W, 3)."""
    plain = next(dialogues(SLICES)).image.astype(np.int16)
    noise = np.random.default_rng(seed).integers(-1, 2, plain.shape[:2])[..., None]
    return np.where(plain > 0, (plain + noise).clip(1, 255), 0).astype(np.uint8)


def dialogue(count: int) -> list[Question]:
    """Each round about the one before, from side to side."""
    sides = ["left", "right"]
    return [
        Question(
            "Segment the same structure on the other side." if number else "Segment the left thalamus.",
            number - 1 if number else None,
            AnswerMode.FORCED,
            f"It is the {sides[number % 2]} thalamus [SEG].",
        )
        for number in range(count)
    ]


@dataclass(slots=True)
class Ways:
    """Of each way to the answer, what each repetition took."""

    held: list[Work] = field(default_factory=list)
    parked: list[Work] = field(default_factory=list)
    replayed: list[Work] = field(default_factory=list)
    anew: list[Work] = field(default_factory=list)

    async def measure(self, bundle: Bundle, path: Path, threads: int, seed: int) -> None:
        """All ways in turn, on an image that none of them has seen."""
        *before, last = dialogue(ROUNDS + 1)
        pixels, name = picture(seed), f"of ten rounds, {seed}"
        async with started(bundle, path, threads) as server:
            await server.open(name, pixels)
            await server.asked(name, before)
            rounds = (await server.orchestrator.keeper.read(name, CALLER)).record.rounds
            self.held.append(await server.asked(name, [last]))
            await server.orchestrator.keeper.rewind(name, CALLER, ROUNDS, None, None)
        async with started(bundle, path, threads) as server:
            self.parked.append(await server.asked(name, [last]))
        seeds = [replace(asked, seed_mask=made.mask) for asked, made in zip(before, rounds, strict=True)]
        async with started(bundle, path, threads) as server:
            await server.open(f"{name}, replayed", pixels)
            self.replayed.append(await server.asked(f"{name}, replayed", [*seeds, last]))
        async with started(bundle, path, threads) as server:
            await server.open(f"{name}, anew", pixels)
            self.anew.append(await server.asked(f"{name}, anew", [*before, last]))


class Meter:
    """Between a client and its server: bytes that the client sent."""

    def __init__(self, server: str) -> None:
        self.sent, self._server = 0, server.rpartition(":")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._joined, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _joined(self) -> None:
        with suppress(OSError):  # no more are listened for
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection((self._server[0], int(self._server[2])))
                for source, to, counted in ((far, near, False), (near, far, True)):
                    threading.Thread(target=self._carry, args=(source, to, counted), daemon=True).start()

    def _carry(self, source: socket.socket, to: socket.socket, counted: bool) -> None:
        with suppress(OSError), source, to:
            while data := source.recv(1 << 16):
                self.sent += len(data) * counted
                to.sendall(data)


def weighed(bundle: Path, out: Path) -> list[int]:
    """Bytes that leave a client for each of its questions, HTTP/2 included, each about the round before."""
    question, answer = "Segment the same structure on the other side.", "It is the left thalamus [SEG]."
    flags = ["--limits.max-rounds", str(REQUESTS)]
    with (
        launched(bundle, out / "sessions.log", flags) as server,
        closing(Meter(server.address)) as meter,
        Client(meter.address, timeout=120) as client,
        client.open(picture(0)) as session,
    ):
        weights, before = [], None
        for _ in range(REQUESTS):
            time.sleep(0.05)  # what acknowledges the last answer has left
            sent = meter.sent
            before = session.ask(question, refer_to=before, answer=answer)
            weights.append(meter.sent - sent)
        return weights


def report(ways: Ways, weights: list[int], repeats: int) -> str:
    where = f"{platform.machine()}, {usable_cpus()} CPUs, load {os.getloadavg()[0]:.1f}"
    anew = statistics.median(each.cpu for each in ways.anew)
    lines = [
        f"The question after {ROUNDS} rounds, each about the one before; {repeats} of each, {where}; medians.",
        "",
        "| the rounds before it | reads | encodes | language passes | ms | CPU ms | of anew |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, works in (
        ("were answered by this server", ways.held),
        ("lie in the file; the server was just started", ways.parked),
        ("are given as seeds; just started", ways.replayed),
        ("are asked anew; just started", ways.anew),
    ):
        [counted] = {(each.reads, each.encodes, each.passes) for each in works}
        seconds, cpu = (statistics.median(of) for of in zip(*((e.seconds, e.cpu) for e in works), strict=True))
        cells = " | ".join(map(str, counted))
        lines.append(f"| {name} | {cells} | {seconds * 1e3:.0f} | {cpu * 1e3:.0f} | {cpu / anew:.0%} |")
    least, most = min(weights[1:]), max(weights[1:])
    lines += [
        "",
        f"Bytes that leave the client for question k of a session, HTTP/2 included: {weights[0]} for k = 1 (about "
        f"nothing, with headers that are new), {least} to {most} for k = 2 to {REQUESTS}.",
    ]
    return "\n".join(lines)


async def measured(bundle: Bundle, out: Path, threads: int, repeats: int) -> Ways:
    ways = Ways()
    with tempfile.TemporaryDirectory(dir=out) as directory:
        for repeat in range(repeats):
            await ways.measure(bundle, Path(directory) / "sessions.db", threads, 1 + repeat)
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sessions", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="and the disk that is measured")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bundle = load_bundle(options.bundle)
    ways = asyncio.run(measured(bundle, options.out, options.threads, options.repeats))
    text = report(ways, weighed(options.bundle, options.out), options.repeats)
    (options.out / "sessions.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
