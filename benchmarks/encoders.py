"""``python -m benchmarks.encoders``: the image encoder's runtimes on this CPU, how fast and how close.

ONNX Runtime in float32, which is the reference, and OpenVINO in f32 and bf16, on as many threads: encodes in turn,
then every mask of the dialogues decoded from each runtime's own embeddings and held against the limits that an
export in another precision must keep (``exporters.compare.drift``). Before and after the encodes of a turn, two
seconds of a matrix product in float32: what share of its rate an encode reaches (``benchmarks.floor``). Most
resident bytes are of one encode in a process of its own, with the runtime alone. Writes encoders.md and
encoders.json into ``--out``. Needs the extra ``openvino``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.encoder_memory import opened, peak
from benchmarks.floor import product_rate, products
from exporters.compare.drift import DriftFigures, DriftLimits, Half, emulated, measure, pixels
from exporters.compare.json_report import as_json
from exporters.compare.recorded_inputs import DecodeInputs, ask, made_up, of_data_set
from mediround import __version__
from serving.bundle import IMAGE_ENCODER, Bundle, load_bundle
from serving.runtime.cpus import usable_cpus
from serving.runtime.graph import Array, ProviderError
from serving.runtime.worker import Stop
from serving.vision.onnx import ImageEncoder
from serving.vision.openvino import HostPrecision


@dataclass(frozen=True, slots=True)
class Row:
    """One runtime; times are medians."""

    runtime: str
    seconds: float
    ratio: float
    """How many times as fast as the reference, pair by pair."""
    share: float
    """Of the rate of this machine's matrix product in float32, which its products reach."""
    peak_bytes: int
    """Most resident bytes of a process that encodes one image."""
    figures: DriftFigures
    problems: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoders", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--data", type=Path, help="dialogues to ask; without it made-up images")
    parser.add_argument("--root", type=Path, help="what the pictures' paths in --data are relative to (.)")
    parser.add_argument("--dialogues", type=int, help="most of --data to take (20)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    given = parser.parse_args()
    if not given.data and (given.root or given.dialogues):
        parser.error("--root and --dialogues must be left out unless --data is given")
    bundle = load_bundle(given.bundle)
    root, most = given.root or Path(), given.dialogues or 20
    dialogues = of_data_set(given.data, root, most) if given.data else made_up()
    asked = [each for each in ask(bundle, list(dialogues), given.threads) if each.batches]
    rows = compare(bundle, asked, given.repeats, given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "encoders.json").write_text(as_json([asdict(row) for row in rows]))
    (given.out / "encoders.md").write_text(table(rows))
    print(table(rows))  # what this command makes


def compare(bundle: Bundle, asked: list[DecodeInputs], repeats: int, threads: int) -> list[Row]:
    """The reference first."""
    encoders: list[ImageEncoder] = []
    peaks: list[int] = []
    for precision in (None, *get_args(HostPrecision)):
        try:
            encoders.append(opened(bundle, threads, precision))
            peaks.append(peak(bundle, threads, precision))
        except ProviderError as error:
            print(f"left out: {error}")
    place = np.empty((1, *bundle.manifest.image.embedding), bundle.manifest.image.embedding_dtype)
    for encoder in encoders:
        seconds(encoder, asked[0], place)  # warm up
    times, least, before = [], [], product_rate()
    for _ in range(repeats):
        times.append([seconds(encoder, asked[0], place) for encoder in encoders])
        after = product_rate()
        least.append(products(bundle.path(IMAGE_ENCODER)) / statistics.mean((before, after)))
        before = after
    reference = emulated(bundle.directory, threads)
    rows = []
    for index, encoder in enumerate(encoders):
        figures = measure(asked, half(encoders[0], place, reference), half(encoder, place, reference))
        rows.append(
            Row(
                encoder.description,
                statistics.median(each[index] for each in times),
                statistics.median(each[0] / each[index] for each in times),
                statistics.median(limit / each[index] for limit, each in zip(least, times, strict=True)),
                peaks[index],
                figures,
                figures.problems(DriftLimits()),
            )
        )
    return rows


def seconds(encoder: ImageEncoder, asked: DecodeInputs, place: Array) -> float:
    """Of one encode."""
    began = time.perf_counter()
    encoder.run_into(pixels(asked), place, Stop())
    return time.perf_counter() - began


def half(encoder: ImageEncoder, place: Array, reference: Half) -> Half:
    """``encoder`` and the reference's decoder, as ``exporters.compare.drift`` runs them."""

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        encoder.run_into(feeds, place, Stop())
        return {"image_embeddings": place.copy()}

    return Half(lambda: run, reference.decoder)


def table(rows: list[Row]) -> str:
    lines = [
        "| image encoder | s | ratio | share | peak MiB | cosine, least | signs flipped | mask IoU mean, least "
        "| within the limits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = row.figures
        lines.append(
            f"| {row.runtime} | {row.seconds:.3f} | {row.ratio:.2f}x "
            f"| {row.share:.0%} | {row.peak_bytes >> 20} | {found.embedding_cosine:.6f} "
            f"| {found.flipped_share:.4%} | {found.mask_iou_mean:.4f}, {found.mask_iou_least:.4f} "
            f"| {'**no**: ' + '; '.join(row.problems) if row.problems else 'yes'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
