"""``python -m benchmarks.triton``: what it costs to have the vision half in Triton, against this process.

Three ways in turn, on images that none has seen: ONNX Runtime in this process; Triton with embeddings and masks
in shared memory; Triton with all by gRPC. Every graph has one thread in every way. Then decodes on one embedding,
several at once. Writes triton.md and triton.json into ``--out``. Needs ``make env-triton``, or with ``--triton`` a
server that runs on this host with the bundle's repository (``python -m exporters repository``), on a GPU say.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient

from demo.triton.server import triton
from exporters.triton_repository import write_repository
from mediround import __version__
from serving.bundle import Bundle, load_bundle
from serving.domain import F32, NO_CORRECTION, EncoderImage
from serving.ports import EmbeddingLease, VisionEngine
from serving.runtime.slab import Slab
from serving.stores.embeddings import MemoryEmbeddings
from serving.vision.onnx import OnnxVision
from serving.vision.triton.engine import DECODER, TritonOptions, TritonVision, mask_slab

IN_PROCESS, BY_REFERENCE, BY_VALUE = "in this process", "Triton, shared memory", "Triton, by gRPC"
ADMIN_KEY = "MEDIROUND_TRITON__ADMIN_KEY"
"""Environment variable, as the orchestrator's."""
STARTED_SECONDS = 60.0
"""Until a Triton that somebody started must serve the bundle."""
ROUNDS = 5
AT_ONCE = (1, 8, 32)


@dataclass(frozen=True, slots=True)
class TritonUnderLoad:
    """A Triton, whoever started it."""

    address: str
    admin_key: str | None


@dataclass(frozen=True, slots=True)
class Way:
    name: str
    engine: VisionEngine
    store: MemoryEmbeddings

    async def lease(self, image: EncoderImage) -> EmbeddingLease:
        return await self.store.acquire(image.key, lambda lease: self.engine.encode(image, lease))

    async def decode(self, lease: EmbeddingLease, feature: F32) -> None:
        await self.engine.decode(lease, feature, np.full(len(feature), NO_CORRECTION, np.float32))

    async def session(self, image: EncoderImage, features: F32) -> tuple[float, float]:
        """Seconds to encode, and seconds of all decodes, one after another."""
        began = time.perf_counter()
        lease = await self.lease(image)
        encoded = time.perf_counter()
        for feature in features:
            await self.decode(lease, feature[np.newaxis])
        ended = time.perf_counter()
        self.store.release(lease)
        return encoded - began, ended - encoded

    async def rate(self, image: EncoderImage, feature: F32, at_once: int, count: int) -> float:
        """Decodes a second, ``at_once`` of them in flight."""
        lease = await self.lease(image)
        left = iter(range(count))

        async def one() -> None:
            for _ in left:
                await self.decode(lease, feature)

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(at_once)))
        seconds = time.perf_counter() - began
        self.store.release(lease)
        return count / seconds


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the repeats."""

    way: str
    encode_ms: float
    decode_ms: float
    session_ms: float
    ratio: float
    """To the session in this process, each repeat against its own; the median of those."""
    encode_bytes: int
    """Through gRPC, both directions."""
    decode_bytes: int
    rates: dict[int, float]
    batches: dict[int, float]
    """Mean size of the batches that Triton ran, where it ran them."""

    def markdown(self) -> str:
        rates = " | ".join(
            f"{rate:.0f}" + (f" ({self.batches[n]:.1f})" if n in self.batches else "")
            for n, rate in self.rates.items()
        )
        return (
            f"| {self.way} | {self.encode_ms:.1f} | {self.decode_ms:.2f} | {self.session_ms:.1f} "
            f"| {self.ratio:.2f}x | {self.encode_bytes:,} | {self.decode_bytes:,} | {rates} |"
        )


@asynccontextmanager
async def ways(bundle: Bundle, server: TritonUnderLoad) -> AsyncIterator[list[Way]]:
    image = bundle.manifest.image
    slab, masks = Slab(8, image.embedding, image.embedding_dtype), mask_slab(bundle, max(AT_ONCE))
    options = TritonOptions(admin_key=server.admin_key)
    referring = TritonVision(bundle, server.address, options, embeddings=slab, masks=masks)
    made = [
        Way(IN_PROCESS, OnnxVision(bundle, threads=1), _store(bundle)),
        Way(BY_REFERENCE, referring, _store(bundle, slab)),
        Way(BY_VALUE, TritonVision(bundle, server.address, options), _store(bundle)),
    ]
    try:
        async with asyncio.timeout(STARTED_SECONDS):
            for way in made:
                if isinstance(way.engine, TritonVision):
                    await way.engine.reached()
        yield made
    finally:
        for way in made:
            await way.engine.close()
        slab.close()
        masks.close()


def _store(bundle: Bundle, slab: Slab | None = None) -> MemoryEmbeddings:
    image = bundle.manifest.image
    return MemoryEmbeddings.of(image, 8 * int(np.prod(image.embedding)) * 4, slab)


async def measure(bundle: Bundle, server: TritonUnderLoad, repeats: int, count: int) -> list[Row]:
    draw = np.random.default_rng(1)
    features = draw.standard_normal((ROUNDS, bundle.manifest.language.feature), np.float32)
    async with ways(bundle, server) as every:
        for way in every:
            await way.session(_image(bundle, -1), features)  # warms up
        moved = {way.name: await _moved(way, _image(bundle, -2), features[:1]) for way in every}
        times: dict[str, list[tuple[float, float]]] = {way.name: [] for way in every}
        for repeat in range(repeats):
            for way in every:
                times[way.name].append(await way.session(_image(bundle, repeat), features))
        rates: dict[str, dict[int, float]] = {way.name: {} for way in every}
        batches: dict[str, dict[int, float]] = {way.name: {} for way in every}
        for at_once in AT_ONCE:
            for way in every:
                seen = _batches(server)
                rates[way.name][at_once] = await way.rate(_image(bundle, 0), features[:1], at_once, count)
                requests, runs = (now - was for now, was in zip(_batches(server), seen, strict=True))
                if runs:
                    batches[way.name][at_once] = requests / runs
    base = [sum(pair) for pair in times[IN_PROCESS]]
    return [_row(name, pairs, base, moved[name], rates[name], batches[name]) for name, pairs in times.items()]


def _row(  # noqa: PLR0917  # each is a column
    name: str,
    pairs: list[tuple[float, float]],
    base: list[float],
    moved: tuple[int, int],
    rates: dict[int, float],
    batches: dict[int, float],
) -> Row:
    totals = [sum(pair) for pair in pairs]
    return Row(
        way=name,
        encode_ms=statistics.median(encode for encode, _ in pairs) * 1000,
        decode_ms=statistics.median(decode for _, decode in pairs) * 1000 / ROUNDS,
        session_ms=statistics.median(totals) * 1000,
        ratio=statistics.median(total / of for total, of in zip(totals, base, strict=True)),
        encode_bytes=moved[0],
        decode_bytes=moved[1],
        rates=rates,
        batches=batches,
    )


async def _moved(way: Way, image: EncoderImage, feature: F32) -> tuple[int, int]:
    """Bytes of tensors that an encode and a decode move through gRPC, in both directions."""
    if not isinstance(way.engine, TritonVision):
        return 0, 0
    counted = [way.engine.counts]
    lease = await way.lease(image)
    counted.append(way.engine.counts)
    await way.decode(lease, feature)
    counted.append(way.engine.counts)
    way.store.release(lease)
    first, second, third = (counts.bytes_sent + counts.bytes_received for counts in counted)
    return second - first, third - second


def _batches(server: TritonUnderLoad) -> tuple[int, int]:
    """Requests that the decoder's model has computed, and runs that it took."""
    with InferenceServerClient(server.address) as client:
        (model,) = client.get_inference_statistics(DECODER).model_stats
    return int(model.inference_count), int(model.execution_count)


def _image(bundle: Bundle, seed: int) -> EncoderImage:
    side = bundle.manifest.image.side
    pixels = np.random.default_rng(seed + 2).integers(0, 256, (side, side, 3), np.uint8)
    return EncoderImage(f"benchmark {seed}", pixels, (side, side))


@contextmanager
def serving(address: str | None, bundle: Bundle, out: Path) -> Iterator[TritonUnderLoad]:
    """The server at ``address``, or one of our own."""
    if address:
        yield TritonUnderLoad(address, os.environ.get(ADMIN_KEY))
        return
    write_repository(bundle, out / "model_repository")
    with triton(out / "model_repository", out / "triton.log") as started:
        yield TritonUnderLoad(started.address, started.admin_key)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.triton", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--decodes", type=int, default=320, help="of each way, at each number at once")
    parser.add_argument("--triton", metavar="HOST:PORT", help=f"a server that runs; {ADMIN_KEY} is its admin key")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    bundle = load_bundle(given.bundle)
    with serving(given.triton, bundle, given.out) as server:
        rows = asyncio.run(measure(bundle, server, given.repeats, given.decodes))
    heading = ["vision half", "encode, ms", "decode, ms", f"1 encode + {ROUNDS} decodes, ms", "ratio"]
    heading += ["bytes an encode", "bytes a decode", *(f"decodes/s, {n} at once" for n in AT_ONCE)]
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|", *(row.markdown() for row in rows)]
    (given.out / "triton.md").write_text("\n".join(lines) + "\n")
    (given.out / "triton.json").write_text(json.dumps([asdict(row) for row in rows], indent=2))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
