"""Masks as bytes, in each encoding of the contract. Both sides of the wire use these.

Knows bool arrays (H, W) and encodings. Does not know messages, images or sessions.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

from mediround import rle
from mediround.v1 import segmentation_pb2 as pb

Bits = npt.NDArray[np.bool_]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(mask: Bits, encoding: pb.MaskEncoding.ValueType) -> bytes:
    """Encode a mask, bool (H, W). Raises ValueError for another array, or an encoding that the contract lacks."""
    rle.check(mask)
    match encoding:
        case pb.MASK_ENCODING_UNSPECIFIED | pb.MASK_ENCODING_COCO_RLE:
            return rle.encode(mask)
        case pb.MASK_ENCODING_PACKED_BITS:
            return np.packbits(mask).tobytes()
        case pb.MASK_ENCODING_PNG:
            return _png(mask)
        case _:
            raise ValueError(f"unknown mask encoding {encoding}")


def decode(data: bytes, encoding: pb.MaskEncoding.ValueType, height: int, width: int) -> Bits:
    """Decode a mask, bool (H, W). A PNG is left to the caller's image library.

    Raises:
        ValueError: the bytes are not a mask of this size, or the encoding is PNG or unknown.
    """
    match encoding:
        case pb.MASK_ENCODING_COCO_RLE:
            return rle.decode(data, height, width)
        case pb.MASK_ENCODING_PACKED_BITS:
            return _unpack(data, height, width)
        case _:
            raise ValueError(f"cannot decode a mask of encoding {encoding}")


def _unpack(data: bytes, height: int, width: int) -> Bits:
    pixels = height * width
    if len(data) != (pixels + 7) // 8:
        raise ValueError(f"{len(data)} bytes do not make a mask of {height}x{width}")
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=pixels)
    return flat.reshape(height, width).view(np.bool_)


def _png(mask: Bits) -> bytes:
    """A 1-bit greyscale PNG, set pixels white (source: the PNG specification, 3rd edition)."""
    height, width = mask.shape
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = np.packbits(mask, axis=1)  # (H, ceil(W / 8))
    unfiltered = np.pad(rows, ((0, 0), (1, 0)))  # a zero before each row: filter type "none"
    body = zlib.compress(unfiltered.tobytes(), level=6)
    return _PNG_SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
