"""Masks as bytes, in each encoding of the contract. Both sides of the wire use these.

Knows bool arrays (H, W) and encodings. Does not know messages, images or sessions.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from mediround import rle
from mediround._png import png
from mediround.v1 import segmentation_pb2 as pb

Bits = npt.NDArray[np.bool_]
_KIND = b"mediround.v1.Mask"


def encode(mask: Bits, encoding: pb.MaskEncoding.ValueType) -> bytes:
    """Encode a mask, bool (H, W). Raises ValueError for another array, or an encoding that the contract lacks."""
    rle.check(mask)
    match encoding:
        case pb.MASK_ENCODING_UNSPECIFIED | pb.MASK_ENCODING_COCO_RLE:
            return rle.encode(mask)
        case pb.MASK_ENCODING_PACKED_BITS:
            return np.packbits(mask).tobytes()
        case pb.MASK_ENCODING_PNG:
            return png(mask)
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


def digest(mask: Bits) -> bytes:
    """What the contract names a mask by, bool (H, W): 32 bytes. Raises ValueError for another array."""
    rle.check(mask)
    return packed_digest(np.packbits(mask), *mask.shape)


def packed_digest(packed: npt.NDArray[np.uint8], height: int, width: int) -> bytes:
    """The same, of one bit a pixel (PACKED_BITS)."""
    hashed = hashlib.sha256(_KIND + height.to_bytes(4) + width.to_bytes(4))
    hashed.update(packed.data)
    return hashed.digest()


def _unpack(data: bytes, height: int, width: int) -> Bits:
    pixels = height * width
    if len(data) != (pixels + 7) // 8:
        raise ValueError(f"{len(data)} bytes do not make a mask of {height}x{width}")
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=pixels)
    return flat.reshape(height, width).view(np.bool_)
