"""The choice of what runs the image encoder on a CPU: measured once for a bundle and a machine, kept in a file.

Knows ONNX Runtime, which is the reference, and OpenVINO in f32, and when the second may take the first's place: it
computes the same to rounding, and is faster here; at each later start it must still compute that. They are tried
in a process of their own, which may fail in any way, and whose memory ends with it. Does not know bfloat16, which
moves masks and is never chosen so.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import platform
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import numpy as np

from mediround import __version__
from serving.bundle import IMAGE_ENCODER, Bundle, BundleError
from serving.domain import F32
from serving.errors import EngineFault, Unavailable
from serving.runtime.cpus import cpu_model
from serving.runtime.digest import digest
from serving.runtime.graph import Array, Graph, ProviderError
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
SAMPLES = 64
"""Elements of an embedding that are kept, to be compared with."""
_FORM, _MOST_BYTES = 1, 4096
_LOOK_SECONDS = 0.1
"""How often a trial looks whether it should stop."""


class _Unfinished(Exception):
    """A process that was to find out ended, or was ended, before it had."""


class _NotStarted(Exception):
    """There was no such process: that tells nothing of OpenVINO, and is not kept."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs the image encoder, and why, in words for a log."""

    encoder: Literal["onnx", "openvino-f32"]
    reason: str
    samples: tuple[float, ...] = ()
    """Of the reference's embedding of noise; with OpenVINO alone."""


def choose(bundle: Bundle, threads: int, cache: Path | None, stop: threading.Event) -> Choice:
    """The choice for this bundle and machine, measured unless ``cache`` has it. Blocks: a minute for a ViT-B, an
    encode where OpenVINO was chosen before.

    ONNX Runtime wherever nothing can be measured, and where a choice could not be kept: the next start might
    choose otherwise. Raises Unavailable once ``stop`` is set.
    """
    openvino = _version("openvino")
    if openvino is None:
        if cache is not None and any(_chosen(place) for place in cache.glob(_name(bundle, "*"))):
            LOG.warning("image encoder: OpenVINO was chosen before, and is not installed now")
        return Choice(ONNX, "OpenVINO is not installed")
    if cache is None or bundle.manifest.image.precision != "fp32":
        nowhere = "--engines.cache names no directory, in which a measured choice would be kept"
        return Choice(ONNX, nowhere if cache is None else "the bundle does not compute in fp32")
    place = cache / _name(bundle, _key(bundle, openvino))
    before = read(place)
    try:
        if before is not None:
            now = checked(bundle, threads, before, stop) if before.encoder == OPENVINO else before
            if now == before:
                return before
            LOG.warning("image encoder: OpenVINO was chosen before, but now %s: both are tried anew", now.reason)
            place.unlink(missing_ok=True)
            before = None
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):  # before a minute is spent
            pass
        return keep(place, measured(bundle, threads, stop))
    except (_Unfinished, _NotStarted) as words:
        reason = f"OpenVINO was chosen before, but {words}" if before else str(words)
        LOG.warning("image encoder: ONNX Runtime, for this start alone: %s", reason)
        return Choice(ONNX, reason)
    except OSError as error:
        return Choice(ONNX, f"--engines.cache must be a directory that can be written: {error.strerror}")


def read(place: Path) -> Choice | None:
    """What was kept; None where nothing was, or nothing that can be read."""
    try:
        with place.open("rb") as file:
            fields = json.loads(file.read(_MOST_BYTES))
        match fields:
            case {"form": 1, "encoder": "onnx" as encoder, "reason": str(reason), "samples": []}:
                return Choice(encoder, reason)
            case {"form": 1, "encoder": "openvino-f32" as encoder, "reason": str(reason), "samples": [*samples]}:
                if len(samples) == SAMPLES:
                    return Choice(encoder, reason, tuple(map(float, samples)))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError, RecursionError):
        pass
    LOG.warning("--engines.cache: %s cannot be read, and is made anew", place.name)
    return None


def keep(place: Path, choice: Choice) -> Choice:
    """``choice``, kept; or what another server has kept meanwhile, which then both have. Raises OSError."""
    written = json.dumps({"form": _FORM, **asdict(choice)})
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="choice-") as directory:
        whole = Path(directory) / place.name
        whole.write_text(written)
        try:
            os.link(whole, place)  # unlike a rename, it leaves what is there
        except OSError:  # one is there, or this disk has no links
            if other := read(place):
                return other
            whole.replace(place)
    return choice


def measured(bundle: Bundle, threads: int, stop: threading.Event) -> Choice:
    """The choice by a trial of both. Raises _NotStarted."""
    try:
        return apart(partial(trial, bundle, threads), stop)
    except _Unfinished as words:
        return Choice(ONNX, str(words))


def checked(bundle: Bundle, threads: int, before: Choice, stop: threading.Event) -> Choice:
    """``before``, for OpenVINO, where that still computes what it was chosen for; else ONNX Runtime, and why.

    Raises _Unfinished, _NotStarted: that is not known, for want of memory say.
    """
    return apart(partial(recheck, bundle, threads, before), stop)


def apart(work: Callable[[], Choice], stop: threading.Event) -> Choice:
    """What ``work`` finds in a process of its own. Raises _Unfinished, _NotStarted; Unavailable at ``stop``."""
    context = multiprocessing.get_context("spawn")
    try:
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_send, args=(sender, work), name="encoder-trial", daemon=True)
        resource_tracker.ensure_running()  # by the child's start it would let the signals in again
        with _no_signals():
            child.start()
    except OSError as error:
        raise _NotStarted(f"the trial of OpenVINO could not be started: {error.strerror}") from None
    sender.close()
    ends = time.monotonic() + TRIAL_SECONDS
    try:
        while not receiver.poll(_LOOK_SECONDS):
            if stop.is_set():
                raise Unavailable("the server stops")
            if time.monotonic() > ends:
                raise _Unfinished(f"the trial of OpenVINO did not end in {TRIAL_SECONDS:.0f} s")
        found: Choice = receiver.recv()
        return found
    except (EOFError, OSError):  # at once, or within what it told
        raise _Unfinished("the trial of OpenVINO ended before its time") from None
    finally:
        child.kill()
        child.join()


@contextmanager
def _no_signals() -> Iterator[None]:
    """A process that is started meanwhile hears none that the terminal, or a service manager, sends to its parent
    and all beside it: it would end before its time, and that would be kept.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(sender: Connection, work: Callable[[], Choice]) -> None:
    sender.send(work())


def trial(bundle: Bundle, threads: int) -> Choice:
    """The choice by both runtimes in this process."""
    path, interface = bundle.path(IMAGE_ENCODER), encoder_interface(bundle.manifest.image)
    try:
        reference = Graph(path, interface, threads)
        return compare(bundle, reference, OpenVinoEncoder(path, interface, threads, "f32"))
    except (BundleError, ProviderError, EngineFault) as error:
        return Choice(ONNX, f"a runtime fails: {error}"[:500])


def recheck(bundle: Bundle, threads: int, before: Choice) -> Choice:
    """``checked``, in this process."""
    image = bundle.manifest.image
    try:
        encoder = OpenVinoEncoder(bundle.path(IMAGE_ENCODER), encoder_interface(image), threads, "f32")
        embedding = np.empty((1, *image.embedding), image.embedding_dtype)
        encoder.run_into(_noise(bundle), embedding, Stop())
    except (BundleError, ProviderError, EngineFault) as error:
        return Choice(ONNX, f"it fails: {error}"[:500])
    difference = _difference(np.array(before.samples, np.float32), _samples(embedding))
    return _unlike(difference) or before


def compare(bundle: Bundle, reference: ImageEncoder, candidate: ImageEncoder) -> Choice:
    """The choice between both on an image of noise. Raises EngineFault when one fails."""
    image, feeds = bundle.manifest.image, _noise(bundle)
    embeddings = np.empty((2, 1, *image.embedding), image.embedding_dtype)
    for encoder, place in zip((reference, candidate), embeddings, strict=True):
        encoder.run_into(feeds, place, Stop())
    if unlike := _unlike(_difference(embeddings[0], embeddings[1])):
        return unlike
    seconds: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while not seconds[0] or (len(seconds[0]) < PAIRS and time.perf_counter() - began < PAIRS_SECONDS):
        for encoder, place, times in zip((reference, candidate), embeddings, seconds, strict=True):
            start = time.perf_counter()
            encoder.run_into(feeds, place, Stop())
            times.append(time.perf_counter() - start)
    ours, theirs = (min(times) for times in seconds)
    words = f"an encode takes {ours:.3g} s by ONNX Runtime, {theirs:.3g} s by OpenVINO f32"
    if ours < LEAST_GAIN * theirs:
        return Choice(ONNX, words)
    return Choice(OPENVINO, words, tuple(map(float, _samples(embeddings[0]))))


def _noise(bundle: Bundle) -> dict[str, Array]:
    """An image of it, as the encoder takes it."""
    side = bundle.manifest.image.side
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    return {"image_u8": pixels, "valid_hw": np.full((1, 2), side, np.int32)}


def _samples(embedding: Array) -> F32:
    flat = embedding.ravel()
    return np.asarray(flat[np.linspace(0, flat.size - 1, SAMPLES).astype(int)], np.float32)


def _difference(ours: Array, theirs: Array) -> float:
    return float(np.abs(ours.astype(np.float32) - theirs).max())


def _unlike(difference: float) -> Choice | None:
    """None: both compute the same."""
    if difference <= LARGEST_DIFFERENCE:  # never NaN
        return None
    return Choice(ONNX, f"OpenVINO's embedding differs by {difference:.1e}, more than {LARGEST_DIFFERENCE:.0e}")


def _chosen(place: Path) -> bool:
    kept = read(place)
    return kept is not None and kept.encoder == OPENVINO


def _name(bundle: Bundle, key: str) -> str:
    return f"image-encoder-{bundle.digest[:12]}-{key}.json"


def _key(bundle: Bundle, openvino: str) -> str:
    """Of what the choice holds for. Not of threads: servers of other sizes that share sessions must agree."""
    runtimes = (_version("onnxruntime") or "", openvino, __version__)
    return digest("image-encoder", bundle.digest, platform.machine(), cpu_model(), *runtimes).hex()[:32]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
