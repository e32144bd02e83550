"""Encodes of one graph in a process of its own, so that its memory is its own; prints JSON.

Knows the runtimes that serve. Does not know how graphs differ.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from loadtest.server_process import peak_memory
from serving.bundle import ImageSpec
from serving.runtime.graph import Graph
from serving.runtime.worker import Stop
from serving.vision.interface import encoder_interface
from serving.vision.onnx import ImageEncoder
from serving.vision.openvino import OpenVinoEncoder

IMAGE = ImageSpec(side=1024, preprocessing="sam_mean_std", embedding=(256, 64, 64), logits_side=256)
INTERFACE = encoder_interface(IMAGE)
VALID = (1024, 700)
"""Rows and columns of the image; the rest of the square is padding."""


def image() -> dict[str, np.ndarray]:
    """The same noise every time, as the graph takes it."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, IMAGE.side, IMAGE.side, 3), dtype=np.uint8)
    return {"image_u8": pixels, "valid_hw": np.array([VALID], np.int32)}


def opened(graph: Path, runtime: str, threads: int) -> ImageEncoder:
    """Raises ProviderError where the runtime is not here."""
    if runtime == "openvino":
        return OpenVinoEncoder(graph, INTERFACE, threads, "f32")
    return Graph(graph, INTERFACE, threads)


def _main(graph: Path, runtime: str, threads: int, encodes: int, out: Path) -> None:
    encoder, place = opened(graph, runtime, threads), np.empty((1, *IMAGE.embedding), np.float32)
    times, work = [], []
    for _ in range(encodes):
        began, spent = time.perf_counter(), time.process_time()
        encoder.run_into(image(), place, Stop())
        times.append(time.perf_counter() - began)
        work.append(time.process_time() - spent)
    np.save(out, place)
    # The fastest: the first warms up.
    print(json.dumps({"seconds": min(times), "cpu_seconds": min(work), "peak_bytes": peak_memory()}))


if __name__ == "__main__":
    graph_path, runtime_name, thread_count, encode_count, embedding_path = sys.argv[1:]
    _main(Path(graph_path), runtime_name, int(thread_count), int(encode_count), Path(embedding_path))
