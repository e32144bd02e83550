"""The pictures of a data set: an item's image as bytes to send, its targets as bool arrays.

Knows paths below a root, and PNG masks through Pillow. What a file claims is checked before its pixels are
decoded. Does not know the service, whose own limits it is handed.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mediround.medseg import DataError, Dialogue
from mediround.pictures import MALFORMED

Bits = npt.NDArray[np.bool_]

_MAX_MASK_BYTES = 64 << 20
_MASK_MODES = frozenset({"1", "L", "P", "RGB"})
_WHITE = 255

_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class PictureError(DataError):
    """One file of an item cannot be used."""

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(problem)
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, str(self)), self.__dict__


@dataclass(frozen=True, slots=True)
class PictureLimits:
    max_image_bytes: int
    max_image_pixels: int


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A dialogue with its pictures. Holds one byte a pixel and round."""

    dialogue: Dialogue
    image: bytes
    """The file as it lies there."""
    image_digest: bytes
    """SHA-256 of ``image``."""
    targets: tuple[Bits, ...]
    """(H, W) each, of the image's own size."""
    key: str
    """SHA-256 (hex) over the item's JSON, the image's bytes and the targets' bytes."""


def load(raw: object, dialogue: Dialogue, root: Path, limits: PictureLimits) -> Item:
    """Read an item's pictures; ``root`` is resolved. Raises PictureError, naming the file."""
    image = _read(root, dialogue.image, limits.max_image_bytes)
    height, width = _size(dialogue.image, image, limits.max_image_pixels)
    digest = hashlib.sha256(json.dumps(raw, sort_keys=True).encode())
    image_digest = hashlib.sha256(image).digest()
    digest.update(image_digest)
    targets = []
    for asked in dialogue.rounds:
        payload = _read(root, asked.target, _MAX_MASK_BYTES)
        digest.update(hashlib.sha256(payload).digest())
        targets.append(_mask(asked.target, payload, height, width))
    return Item(dialogue, image, image_digest, tuple(targets), digest.hexdigest())


def _read(root: Path, name: str, max_bytes: int) -> bytes:
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise PictureError(name, "must lie below --root; paths are relative to it")
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise PictureError(name, "must be a file")
        if found.st_size > max_bytes:
            raise PictureError(name, f"holds {found.st_size} bytes; the limit is {max_bytes}")
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureError(name, "is missing; is --root right?") from None
    except PictureError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # no permission; a zero byte; links in a circle
        raise PictureError(name, f"cannot be read ({type(error).__name__})") from None


def _size(name: str, payload: bytes, max_pixels: int) -> tuple[int, int]:
    """Height and width as an image's header says; the server decodes the pixels, and judges them."""
    with _opened(name, payload, ("PNG", "JPEG", "TIFF")) as image:
        width, height = image.size
    if height * width > max_pixels:
        raise PictureError(name, f"is {height}x{width}; the server takes at most {max_pixels} pixels")
    return height, width


def _mask(name: str, payload: bytes, height: int, width: int) -> Bits:
    with _opened(name, payload, ("PNG",)) as image:
        if image.size != (width, height):
            raise PictureError(
                name, f"is {image.height}x{image.width}; it must be as large as its image, {height}x{width}"
            )
        if image.mode not in _MASK_MODES or "transparency" in image.info:
            raise PictureError(name, f"is of mode {image.mode}; save masks as 8-bit grey without transparency")
        grey = np.asarray(image.convert("L"))  # (H, W) uint8
    white: Bits = grey == _WHITE
    if not (white | (grey == 0)).all():
        raise PictureError(name, "must hold the values 0 and 255 alone: a mask is black and white")
    return white


@contextmanager
def _opened(name: str, payload: bytes, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """A picture whose header was read; what goes wrong in the block is the picture's fault."""
    try:
        with Image.open(io.BytesIO(payload), formats=formats) as image:
            yield image
    except PictureError:
        raise
    except _BOMB:
        raise PictureError(name, "claims more pixels than any image that is served") from None
    except MALFORMED as error:
        kinds = " or ".join(formats)
        raise PictureError(name, f"is no {kinds} file that can be read ({type(error).__name__})") from None
