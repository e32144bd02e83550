"""An image encoder's memory, in a process of its own.

Knows the runtimes that serve on a CPU. Does not know how fast they are.
"""

from __future__ import annotations

import multiprocessing

import numpy as np

from loadtest.server_process import peak_memory
from serving.bundle import IMAGE_ENCODER, Bundle
from serving.runtime.graph import Graph
from serving.runtime.worker import Stop
from serving.vision.interface import encoder_interface
from serving.vision.onnx import ImageEncoder
from serving.vision.openvino import HostPrecision, OpenVinoEncoder


def opened(bundle: Bundle, threads: int, precision: HostPrecision | None) -> ImageEncoder:
    """None: ONNX Runtime's. Raises ProviderError where OpenVINO, or the precision, is not there."""
    path, interface = bundle.path(IMAGE_ENCODER), encoder_interface(bundle.manifest.image)
    return OpenVinoEncoder(path, interface, threads, precision) if precision else Graph(path, interface, threads)


def peak(bundle: Bundle, threads: int, precision: HostPrecision | None) -> int:
    """Most resident bytes of a process that encodes one image."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(_own_peak, (bundle, threads, precision))


def _own_peak(bundle: Bundle, threads: int, precision: HostPrecision | None) -> int:
    image = bundle.manifest.image
    feeds = {
        "image_u8": np.random.default_rng(0).integers(0, 256, (1, image.side, image.side, 3), np.uint8),
        "valid_hw": np.full((1, 2), image.side, np.int32),
    }
    place = np.empty((1, *image.embedding), image.embedding_dtype)
    opened(bundle, threads, precision).run_into(feeds, place, Stop())
    return peak_memory()
