"""PNG, written without an image library: masks go over the wire as such, and pictures are shown as such.

Knows the format alone (source: the PNG specification, 3rd edition).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(pixels: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> bytes:
    """PNG of bool (H, W), as 1 bit a pixel, set pixels white; or of uint8 (H, W, 3) RGB."""
    height, width = pixels.shape[:2]
    bits = pixels.dtype == np.bool_
    depth, colour = (1, 0) if bits else (8, 2)
    rows = np.packbits(pixels, axis=1) if bits else pixels.reshape(height, -1)
    unfiltered = np.pad(rows, ((0, 0), (1, 0)))  # a zero before each row: filter type "none"
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(unfiltered.tobytes(), level=6)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
