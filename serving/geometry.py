"""Pixels in and out: resizing, crops, boxes, and masks back at the image's own size.

Knows exactly what MediRound computes between images and tensors (docs/reference.md). Does not know
tokens, engines or sessions. Everything here is pure and runs in a worker thread for large images.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from serving.bundle import IMAGE_ENCODER, Bundle, ImageSpec, TowerSpec
from serving.domain import (
    F32,
    U8,
    Bits,
    ContentAddress,
    DecodedImage,
    EncoderImage,
    Mask,
    Rectangle,
    Reference,
    SourceImage,
    TowerImage,
)
from serving.pixels.masks import drawn, near_zero, pixels_drawn
from serving.runtime.digest import digest

FEW_PIXELS = 9
"""A mask with at most this many visible pixels cannot be a reference: the whole image stands in for it."""
_FEW_PIXELS = 1 << 18
"""Of an image: up to so many a mask of any form is soon drawn."""
_DRAWN_SOON, _PACKED_SOON = 1 << 20, 1 << 22
"""Pixels resized for a mask, and those of its image, which is packed and hashed: a millisecond or so each."""
_STRIP_PIXELS = 1 << 20
"""Pixels that are padded and resized at a time."""
_BICUBIC_SUPPORT = 2
_NEARLY_SQUARE = 1.25
"""Sides' ratio up to which one resize of the whole square costs less than two of the picture."""
_SOME_ROWS = 16
"""Of so many rows, one is looked at first."""
_ROW_UNITS, _COLUMN_UNITS = 2048, 256
"""Of 1, in which OpenCV's linear weights are whole; those of ``INTER_LINEAR_EXACT``."""
LIBRARIES = {"opencv": cv2.__version__}
"""Versions of what resizes beside Pillow, by name."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """The geometry of one model."""

    image: ImageSpec
    tower: TowerSpec
    encoder_digest: str
    """SHA-256 of the encoder's graph: embeddings of different encoders never share a key."""

    @classmethod
    def of(cls, bundle: Bundle) -> Geometry:
        """As the bundle's engines take images."""
        manifest = bundle.manifest
        return cls(manifest.image, manifest.tower, manifest.graph_digest(IMAGE_ENCODER))

    def source_image(self, rgb: U8, address: ContentAddress | None = None) -> SourceImage:
        """What rounds need of an image, RGB uint8 (H, W, 3); ``address``: what it was read from, where known."""
        return self.with_tower(self.decoded_image(rgb, address))

    def decoded_image(self, rgb: U8, address: ContentAddress | None = None) -> DecodedImage:
        """What the encoder needs of it: the part of ``source_image`` that is quickly there."""
        return DecodedImage(_without_copies(rgb), self._embedding_key(address or _address(rgb)))

    def with_tower(self, image: DecodedImage) -> SourceImage:
        """The rest of ``source_image``."""
        return SourceImage(image.pixels, image.embedding_key, self.tower_image(image.pixels))

    def encoder_image(self, image: DecodedImage) -> EncoderImage:
        """Longest side resized to S (bilinear, antialiased), zeros at the right and bottom."""
        height, width = self._valid_size(image)
        resized = bilinear(image.pixels, height, width)
        return EncoderImage(image.embedding_key, _rgb(_padded(resized, self.image.side)), (height, width))

    def tower_image(self, pixels: U8) -> TowerImage:
        """Shortest side resized to P (bicubic), centre crop. A non-square image loses its margins."""
        side = self.tower.side
        height, width = pixels.shape[:2]
        short, long = sorted((height, width))
        long = int(side * long / short)
        new_height, new_width = (side, long) if height <= width else (long, side)
        resized = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BICUBIC)
        top, left = (new_height - side) // 2, (new_width - side) // 2
        return _tower(np.asarray(resized)[top : top + side, left : left + side])

    def mask(self, logits: F32, image: SourceImage) -> Mask:
        """Logits (L, L) over the padded square → mask of the image's size; set where the logit is > 0.

        Two successive bilinear resizes: one alone moves edges.
        """
        return drawn(logits, self.image.side, self._valid_size(image), image.size)

    def mask_is_soon(self, logits: F32, image: SourceImage) -> bool:
        """Whether ``mask`` takes about as long as a thread's turn."""
        pixels = math.prod(image.size)
        if pixels <= _FEW_PIXELS:
            return True
        square, valid = self.image.side, self._valid_size(image)
        return pixels <= _PACKED_SOON and pixels_drawn(logits, square, valid, image.size) <= _DRAWN_SOON

    def near_zero(self, logits: F32, image: SourceImage, margin: float) -> Mask:
        """The pixels of the image whose logits, resized as ``mask`` does it, lie at most ``margin`` from 0."""
        return near_zero(logits, self.image.side, self._valid_size(image), image.size, margin)

    def full_logits(self, logits: F32, image: SourceImage) -> F32:
        """Logits (L, L) → logits (H, W) of the image's size, before the threshold: the plain way to a mask."""
        side = self.image.side
        height, width = image.size
        valid_height, valid_width = self._valid_size(image)
        square = cv2.resize(logits, (side, side), interpolation=cv2.INTER_LINEAR)
        cut = np.ascontiguousarray(square[:valid_height, :valid_width])
        return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    def reference(self, image: SourceImage, mask: Mask, round_index: int) -> Reference:
        """What a later round is shown of ``mask``: its crop and its box.

        The crop's rectangle ignores pixels that are black in the image; the box does not. A mask with at
        most nine pixels whose first channel is not black is replaced by the whole image, for both.
        """
        height, width = image.size
        box = mask.box
        masked = image.pixels if box is None else _masked(image.pixels, mask.part(), box)
        whole = box is None or _few(masked)
        if box is None or whole:
            box, masked = Rectangle(0, 0, width - 1, height - 1), image.pixels
        # An image that is black all over has no visible part: then it is all of it (our choice; the published code
        # does not define it).
        visible = _visible_rectangle(masked) or Rectangle(0, 0, box.x_max - box.x_min, box.y_max - box.y_min)
        cut = masked[visible.y_min : visible.y_max + 1, visible.x_min : visible.x_max + 1]
        normalised = np.array(
            [box.x_min / width, box.y_min / height, box.x_max / width, box.y_max / height], np.float32
        )
        crop = _tower(squared(cut, self.tower.side))
        return Reference(round_index, crop, _shifted(visible, box), normalised, box, whole)

    def _valid_size(self, image: DecodedImage) -> tuple[int, int]:
        """(height, width) of the image within the encoder's square."""
        return _resized(*image.size, self.image.side)

    def _embedding_key(self, address: ContentAddress) -> str:
        """SHA-256 of all that an embedding depends on, hex."""
        parts = (address.form, address.digest, self.encoder_digest, self.image.preprocessing)
        return digest("embedding", *parts).hex()


def bilinear(pixels: U8, height: int, width: int) -> U8:
    """RGB (H, W, 3) or grey (H, W), resized (bilinear, antialiased); bit-equal to Pillow.

    Pillow resizes rows, then columns, each to 8 bits, half up. Of one axis OpenCV does the same several times
    faster, but with weights in units of 1/2048 along rows, and of 1/256 along columns: so where all weights are
    multiples of that, one axis at a time.
    """
    old_height, old_width = pixels.shape[:2]
    if not (_exact(old_height, height) and _exact(old_width, width)):
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    wide = cv2.resize(pixels, (width, old_height), interpolation=cv2.INTER_LINEAR)
    if _exact(old_height, height, _COLUMN_UNITS):
        rows = wide.reshape(old_height, -1)  # whatever a column is of
        tall = cv2.resize(rows, (rows.shape[1], height), interpolation=cv2.INTER_LINEAR_EXACT)
        return np.asarray(tall, np.uint8).reshape(height, *wide.shape[1:])
    tall = cv2.resize(cv2.transpose(wide), (height, width), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.transpose(tall), np.uint8)


def _padded(pixels: U8, side: int) -> U8:
    """RGB (H, W, 3) or grey (H, W) at the top left of a black square."""
    below, beside = side - pixels.shape[0], side - pixels.shape[1]
    if not (below or beside):
        return pixels
    return np.asarray(cv2.copyMakeBorder(pixels, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=0), np.uint8)


def _exact(old: int, new: int, units: int = _ROW_UNITS) -> bool:
    """Whether enlarging a side takes no weight but multiples of 1/units."""
    denominator = 2 * new // math.gcd(old, new)
    return new >= old and units % denominator == 0


def squared(pixels: U8, side: int) -> U8:
    """RGB (H, W, 3) or grey (H, W) at the top left of a black square, resized (bicubic) to ``side``.

    Bit-equal to Pillow. A square that is many times larger than the picture is never made: Pillow resizes
    rows, then columns, each to 8 bits; so each of the two passes is padded by itself, and only as far as its
    filter sees.
    """
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest <= _NEARLY_SQUARE * min(height, width) and longest * longest <= _STRIP_PIXELS:
        whole = _padded(pixels, longest)
        return np.asarray(Image.fromarray(whole).resize((side, side), Image.Resampling.BICUBIC))
    columns = _rows_resized(pixels, longest, side)  # (H, side, …)
    strip = np.zeros((longest, *columns.shape[1:]), np.uint8)
    strip[:height] = columns
    return np.asarray(Image.fromarray(strip).resize((side, side), Image.Resampling.BICUBIC))


def _rows_resized(pixels: U8, length: int, side: int) -> U8:
    """Each row of (H, W, …), zeros behind it up to ``length``, resized to ``side``: (H, side, …)."""
    height, width, *channels = pixels.shape
    scale = length / side
    reach = _BICUBIC_SUPPORT * max(scale, 1.0) + 2
    # Beyond these all is black. Of so many the scale is exact in the single precision in which Pillow keeps a box.
    step = side // (side & -side)
    wanted = min(side, step * math.ceil((width + reach) / scale / step))
    padded = min(length, math.ceil(wanted * scale + reach))
    out = np.zeros((height, side, *channels), np.uint8)
    rows = max(1, _STRIP_PIXELS // padded)
    for top in range(0, height, rows):
        part = pixels[top : top + rows]
        wide = np.zeros((part.shape[0], padded, *channels), np.uint8)
        wide[:, :width] = part
        box = (0, 0, wanted * scale, part.shape[0])
        resized = Image.fromarray(wide).resize((wanted, part.shape[0]), Image.Resampling.BICUBIC, box)
        out[top : top + rows, :wanted] = np.asarray(resized)
    return out


def _address(rgb: U8) -> ContentAddress:
    """Of pixels (H, W, 3) that were not sent as bytes."""
    height, width, channels = rgb.shape
    content = hashlib.sha256(np.ascontiguousarray(rgb).data).digest()
    return ContentAddress(f"uint8 {height}x{width}x{channels}", content)


def _without_copies(rgb: U8) -> U8:
    """RGB (H, W, 3) as (H, W), read-only, where the other channels repeat the first: a third of the work."""
    middle = rgb.shape[0] // 2  # a coloured image mostly shows it in one row
    if _repeated(rgb[middle : middle + 1]) is None or (grey := _repeated(rgb)) is None:
        return rgb
    grey.flags.writeable = False
    return grey


def _repeated(rgb: U8) -> U8 | None:
    """The channel, (H, W), that all three are; None where they differ."""
    first = np.asarray(cv2.extractChannel(rgb, 0), np.uint8)
    same = all(np.array_equal(first, cv2.extractChannel(rgb, channel)) for channel in (1, 2))
    return first if same else None


def _rgb(pixels: U8) -> U8:
    """(H, W) or (H, W, 3) as the latter."""
    return pixels if pixels.ndim == 3 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)


def _tower(pixels: U8) -> TowerImage:
    """RGB (P, P, 3) or grey (P, P) with its digest."""
    rgb = np.ascontiguousarray(_rgb(pixels))
    return TowerImage(hashlib.sha256(rgb.data).hexdigest(), rgb)


def _masked(pixels: U8, part: Bits, box: Rectangle) -> U8:
    """What lies within the mask's box, black outside the mask; ``part``: the mask there."""
    rows, columns = slice(box.y_min, box.y_max + 1), slice(box.x_min, box.x_max + 1)
    return np.asarray(cv2.copyTo(pixels[rows, columns], part.view(np.uint8)), np.uint8)


def _few(pixels: U8) -> bool:
    """Whether at most nine pixels' first channels are not black: mostly, a few rows say no."""
    return all(cv2.countNonZero(_first_channel(rows)) <= FEW_PIXELS for rows in (pixels[::_SOME_ROWS], pixels))


def _first_channel(pixels: U8) -> U8:
    return pixels if pixels.ndim == 2 else np.asarray(cv2.extractChannel(pixels, 0), np.uint8)


def _visible_rectangle(pixels: U8) -> Rectangle | None:
    """The smallest rectangle round all pixels, RGB or grey, that are not black; None when all are."""
    flat = pixels.reshape(pixels.shape[0], -1)  # (H, 3W) or (H, W): each channel stands for its pixel
    channels = flat.shape[1] // pixels.shape[1]
    x, y, width, height = cv2.boundingRect(flat)
    return Rectangle(x // channels, y, (x + width - 1) // channels, y + height - 1) if width else None


def _shifted(rectangle: Rectangle, origin: Rectangle) -> Rectangle:
    """A rectangle within ``origin``, as one of the image."""
    left, top = origin.x_min, origin.y_min
    return Rectangle(left + rectangle.x_min, top + rectangle.y_min, left + rectangle.x_max, top + rectangle.y_max)


def _resized(height: int, width: int, side: int) -> tuple[int, int]:
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
