"""The choice of what runs the image encoder on a CPU: measured once for a bundle and a machine, kept in a file.

Knows ONNX Runtime, which is the reference, and OpenVINO in f32, and when the second may take the first's place: it
computes the same to rounding, and is faster here. Both are tried in a process of their own, which may fail in any
way, and whose memory ends with it. Does not know bfloat16, which moves masks and is never chosen so.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import numpy as np

from mediround import __version__
from serving.bundle import IMAGE_ENCODER, Bundle, BundleError
from serving.errors import EngineFault
from serving.runtime.cpus import cpu_model
from serving.runtime.digest import digest
from serving.runtime.graph import Graph, ProviderError
from serving.runtime.worker import Stop
from serving.vision.interface import encoder_interface
from serving.vision.onnx import ImageEncoder
from serving.vision.openvino import OpenVinoEncoder

LOG = logging.getLogger(__name__)

ONNX: Literal["onnx"] = "onnx"
OPENVINO: Literal["openvino-f32"] = "openvino-f32"
LARGEST_DIFFERENCE = 1e-4
"""Of an element of the embedding, from ONNX Runtime's; as golden vectors allow it."""
LEAST_GAIN = 1.05
"""How many times as fast OpenVINO must be: less than that, another measurement might say otherwise."""
PAIRS, PAIRS_SECONDS = 5, 20.0
"""Encodes by each in turn, and when no further pair begins."""
TRIAL_SECONDS = 600.0
"""When a trial is given up."""
_FORM, _MOST_BYTES = 1, 4096


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs the image encoder, and why, in words for a log."""

    encoder: Literal["onnx", "openvino-f32"]
    reason: str


def choose(bundle: Bundle, threads: int, cache: Path | None) -> Choice:
    """The choice for this bundle and machine, measured unless ``cache`` has it. Blocks: a minute for a ViT-B.

    ONNX Runtime wherever nothing can be measured, and where a choice could not be kept: the next start might
    choose otherwise.
    """
    openvino = _version("openvino")
    if openvino is None:
        return Choice(ONNX, "OpenVINO is not installed")
    if bundle.manifest.image.precision != "fp32":
        return Choice(ONNX, "the bundle does not compute in fp32")
    if cache is None:
        return Choice(ONNX, "--engines.cache names no directory, in which a measured choice would be kept")
    place = cache / f"image-encoder-{_key(bundle, openvino)}.json"
    before = read(place)
    if before is not None:
        return before
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):  # before a minute is spent
            pass
        return keep(place, measured(bundle, threads))
    except OSError as error:
        return Choice(ONNX, f"--engines.cache must be a directory that can be written: {error.strerror}")


def read(place: Path) -> Choice | None:
    """What was kept; None where nothing was, or nothing that can be read."""
    try:
        with place.open("rb") as file:
            fields = json.loads(file.read(_MOST_BYTES))
        match fields:
            case {"form": 1, "encoder": "onnx" | "openvino-f32" as encoder, "reason": str(reason)}:
                return Choice(encoder, reason)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        pass
    LOG.warning("--engines.cache: %s cannot be read, and is made anew", place.name)
    return None


def keep(place: Path, choice: Choice) -> Choice:
    """``choice``, kept; or what another server has kept meanwhile, which then both have. Raises OSError."""
    written = json.dumps({"form": _FORM, "encoder": choice.encoder, "reason": choice.reason})
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="choice-") as directory:
        whole = Path(directory) / place.name
        whole.write_text(written)
        try:
            os.link(whole, place)  # unlike a rename, it leaves what is there
        except FileExistsError:
            if other := read(place):
                return other
            whole.replace(place)
    return choice


def measured(bundle: Bundle, threads: int) -> Choice:
    """The choice by a trial in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sender, bundle, threads), name="encoder-trial", daemon=True)
    child.start()
    sender.close()
    try:
        if receiver.poll(TRIAL_SECONDS):
            found = receiver.recv()
            return found if isinstance(found, Choice) else Choice(ONNX, "the trial of OpenVINO failed")
        return Choice(ONNX, f"the trial of OpenVINO did not end in {TRIAL_SECONDS:.0f} s")
    except EOFError:
        return Choice(ONNX, "the trial of OpenVINO ended before its time")
    finally:
        child.kill()
        child.join()


def _send(sender: Connection, bundle: Bundle, threads: int) -> None:
    sender.send(trial(bundle, threads))


def trial(bundle: Bundle, threads: int) -> Choice:
    """The choice by both runtimes in this process."""
    path, interface = bundle.path(IMAGE_ENCODER), encoder_interface(bundle.manifest.image)
    try:
        reference = Graph(path, interface, threads)
        return compare(bundle, reference, OpenVinoEncoder(path, interface, threads, "f32"))
    except (BundleError, ProviderError, EngineFault) as error:
        return Choice(ONNX, f"a runtime fails: {error}"[:500])


def compare(bundle: Bundle, reference: ImageEncoder, candidate: ImageEncoder) -> Choice:
    """The choice between both on an image of noise. Raises EngineFault when one fails."""
    image = bundle.manifest.image
    feeds = {
        "image_u8": np.random.default_rng(0).integers(0, 256, (1, image.side, image.side, 3), np.uint8),
        "valid_hw": np.full((1, 2), image.side, np.int32),
    }
    embeddings = np.empty((2, 1, *image.embedding), image.embedding_dtype)
    for encoder, place in zip((reference, candidate), embeddings, strict=True):
        encoder.run_into(feeds, place, Stop())
    difference = float(np.abs(embeddings[0].astype(np.float32) - embeddings[1]).max())
    if not difference <= LARGEST_DIFFERENCE:  # NaN, too
        return Choice(
            ONNX, f"OpenVINO's embedding differs by {difference:.1e}, more than {LARGEST_DIFFERENCE:.0e}"
        )
    seconds: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while not seconds[0] or (len(seconds[0]) < PAIRS and time.perf_counter() - began < PAIRS_SECONDS):
        for encoder, place, times in zip((reference, candidate), embeddings, seconds, strict=True):
            start = time.perf_counter()
            encoder.run_into(feeds, place, Stop())
            times.append(time.perf_counter() - start)
    ours, theirs = (min(times) for times in seconds)
    words = f"an encode takes {ours:.3g} s by ONNX Runtime, {theirs:.3g} s by OpenVINO f32"
    return Choice(OPENVINO if ours >= LEAST_GAIN * theirs else ONNX, words)


def _key(bundle: Bundle, openvino: str) -> str:
    """Of all that the choice depends on."""
    runtimes = (_version("onnxruntime") or "", openvino, __version__)
    return digest("image-encoder", bundle.digest, platform.machine(), cpu_model(), *runtimes).hex()[:32]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
