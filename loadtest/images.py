"""The images of a run: made from their numbers, and only when they are needed.

Knows pixels. Does not know dialogues. Equal seed and number, equal image; other numbers, other pixels, so that no
cache of a server knows a new image. A server that was sent the images of a seed before may still hold them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from loadtest.scenario import Images, ScenarioError

U8 = npt.NDArray[np.uint8]

MAX_PICTURES = 64
MAX_PIXELS = 4096 * 4096
AHEAD_BYTES = 128 << 20
"""Of images that were made and are not yet needed."""
_CELLS = 16
_LABELS = "_labels"


class ImageMaker:
    """Makes images in the order of their numbers, and keeps the newest ``pool``."""

    def __init__(self, images: Images, seed: int, pictures: Sequence[U8]) -> None:
        """``pictures``: uint8 (H, W) or (H, W, 3); none for synthetic images."""
        self._images, self._seed, self._pictures = images, seed, pictures
        self._kept: dict[int, U8 | bytes] = {}

    @property
    def ahead(self) -> int:
        """How many images may wait to be sent."""
        height, width = self._images.size
        largest = max([picture.nbytes for picture in self._pictures] or [height * width * 3])
        return max(1, min(4096, AHEAD_BYTES // largest))

    def image(self, number: int) -> U8 | bytes:
        """Pixels or the bytes of a PNG file, as the scenario says."""
        if number not in self._kept:
            pixels = self._pixels(number)
            self._kept[number] = pixels if self._images.encoding == "raw" else _png(pixels)
            while len(self._kept) > self._images.pool:
                del self._kept[min(self._kept)]
        return self._kept[number]

    def _pixels(self, number: int) -> U8:
        random = np.random.default_rng([self._seed, number, 1])
        if not self._pictures:
            return _synthetic(self._images.size, random)
        picture = self._pictures[number % len(self._pictures)]
        # One grey level of noise where there is tissue: another image to every cache, the same to the model.
        noise = random.integers(0, 2, picture.shape, np.uint8)
        return np.where((picture > 0) & (picture < 255), picture + noise, picture)


def load_pictures(images: Images, folder: Path) -> list[U8]:
    """The pictures that a scenario in ``folder`` names; none where it names none. Label planes are left out.

    Raises:
        ScenarioError: there is none, or one cannot be read.
    """
    if images.pictures is None:
        return []
    try:
        found = sorted(p for p in folder.glob(images.pictures) if p.is_file() and not p.stem.endswith(_LABELS))
    except (ValueError, NotImplementedError) as error:
        raise ScenarioError(f"images.pictures: {error}; give a pattern relative to the scenario") from error
    if not found:
        raise ScenarioError(f"images.pictures: no file matches {images.pictures} in {folder}")
    return [_read(path) for path in found[:MAX_PICTURES]]


def _read(path: Path) -> U8:
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ScenarioError(f"images.pictures: {path} has more than {MAX_PIXELS} pixels")
            return np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ScenarioError(f"images.pictures: {path} cannot be read as an image") from error


def _synthetic(size: tuple[int, int], random: np.random.Generator) -> U8:
    """Coloured patches without a black pixel, which a server might crop away: (H, W, 3)."""
    height, width = size
    coarse = random.integers(1, 256, (_CELLS, _CELLS, 3), np.uint8)
    rows, columns = np.arange(height) * _CELLS // height, np.arange(width) * _CELLS // width
    pixels: U8 = coarse[rows[:, None], columns[None, :]]
    return pixels


def _png(pixels: U8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
