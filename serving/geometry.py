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

from mediround.masks import packed_digest
from serving.bundle import IMAGE_ENCODER, Bundle, ImageSpec, TowerSpec
from serving.domain import F32, U8, Bits, EncoderImage, Mask, Rectangle, Reference, SourceImage, TowerImage

FEW_PIXELS = 9
"""A mask with at most this many visible pixels cannot be a reference: the whole image stands in for it."""
_STRIP_PIXELS = 1 << 20
"""Pixels that are padded and resized at a time."""
_BICUBIC_SUPPORT = 2


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

    def source_image(self, rgb: U8) -> SourceImage:
        """All that rounds need of an image, RGB uint8 (H, W, 3)."""
        return SourceImage(rgb, self.tower_image(rgb), self.encoder_image(rgb))

    def encoder_image(self, rgb: U8) -> EncoderImage:
        """Longest side resized to S (bilinear, antialiased), zeros at the right and bottom."""
        side = self.image.side
        height, width = _resized(rgb.shape[0], rgb.shape[1], side)
        pixels = np.zeros((side, side, 3), np.uint8)
        resized = Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR)
        pixels[:height, :width] = np.asarray(resized)
        digest = hashlib.sha256(pixels.data)
        digest.update(f"{height}x{width}/{self.encoder_digest}/{self.image.preprocessing}".encode())
        return EncoderImage(digest.hexdigest(), pixels, (height, width))

    def tower_image(self, rgb: U8) -> TowerImage:
        """Shortest side resized to P (bicubic), centre crop. A non-square image loses its margins."""
        side = self.tower.side
        height, width = rgb.shape[:2]
        short, long = sorted((height, width))
        long = int(side * long / short)
        new_height, new_width = (side, long) if height <= width else (long, side)
        resized = Image.fromarray(rgb).resize((new_width, new_height), Image.Resampling.BICUBIC)
        top, left = (new_height - side) // 2, (new_width - side) // 2
        return _tower(np.asarray(resized)[top : top + side, left : left + side])

    def mask(self, logits: F32, image: SourceImage) -> Mask:
        """Logits (L, L) over the padded square → mask of the image's size; set where the logit is > 0.

        Two successive bilinear resizes: one alone moves edges.
        """
        full = self.full_logits(logits, image)
        return pack_mask(np.greater(full, 0))

    def full_logits(self, logits: F32, image: SourceImage) -> F32:
        """Logits (L, L) → logits (H, W) of the image's size, before the threshold."""
        side = self.image.side
        height, width = image.size
        valid_height, valid_width = image.encoder.valid_hw
        square = cv2.resize(logits, (side, side), interpolation=cv2.INTER_LINEAR)
        cut = np.ascontiguousarray(square[:valid_height, :valid_width])
        return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    def reference(self, image: SourceImage, mask: Mask, round_index: int) -> Reference:
        """What a later round is shown of ``mask``: its crop and its box.

        The crop's rectangle ignores pixels that are black in the image; the box does not. A mask with at
        most nine pixels whose first channel is not black is replaced by the whole image, for both.
        """
        height, width = image.size
        bits = mask.bits()
        whole = bool(np.count_nonzero(image.rgb[..., 0][bits]) <= FEW_PIXELS)
        if whole:
            bits = np.ones((height, width), np.bool_)
        box = bounding_rectangle(bits)
        if box is None:
            raise AssertionError("a mask with visible pixels has a bounding rectangle")
        cut, rectangle = _masked_crop(image.rgb, bits, box)
        crop = _tower(squared(cut, self.tower.side))
        normalised = np.array(
            [box.x_min / width, box.y_min / height, box.x_max / width, box.y_max / height], np.float32
        )
        return Reference(round_index, crop, rectangle, normalised, box, whole)


def pack_mask(bits: Bits) -> Mask:
    """Pack a mask, bool (H, W), with its area, box and digest."""
    height, width = bits.shape
    packed, area = np.packbits(bits), int(np.count_nonzero(bits))
    return Mask(packed, (height, width), area, bounding_rectangle(bits), packed_digest(packed, height, width))


def bounding_rectangle(bits: Bits) -> Rectangle | None:
    """The smallest rectangle round all set pixels of a bool (H, W); None when none is set."""
    rows = np.flatnonzero(bits.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(bits[rows[0] : rows[-1] + 1].any(axis=0))
    return Rectangle(int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))


def squared(rgb: U8, side: int) -> U8:
    """RGB (H, W, 3) at the top left of a black square, resized (bicubic) to ``side``; bit-equal to Pillow.

    The square itself is never made: it may be many times larger than the picture. Pillow resizes rows, then
    columns, each to 8 bits; so each of the two passes is padded by itself, and only as far as its filter sees.
    """
    height, width = rgb.shape[:2]
    columns = _rows_resized(rgb, max(height, width), side)  # (H, side, 3)
    strip = np.zeros((max(height, width), side, 3), np.uint8)
    strip[:height] = columns
    return np.asarray(Image.fromarray(strip).resize((side, side), Image.Resampling.BICUBIC))


def _rows_resized(rgb: U8, length: int, side: int) -> U8:
    """Each row of RGB (H, W, 3), zeros behind it up to ``length``, resized to ``side``: (H, side, 3)."""
    height, width = rgb.shape[:2]
    scale = length / side
    reach = _BICUBIC_SUPPORT * max(scale, 1.0) + 2
    # Beyond these all is black. Of so many the scale is exact in the single precision in which Pillow keeps a box.
    step = side // (side & -side)
    wanted = min(side, step * math.ceil((width + reach) / scale / step))
    padded = min(length, math.ceil(wanted * scale + reach))
    out = np.zeros((height, side, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // padded)
    for top in range(0, height, rows):
        part = rgb[top : top + rows]
        wide = np.zeros((part.shape[0], padded, 3), np.uint8)
        wide[:, :width] = part
        box = (0, 0, wanted * scale, part.shape[0])
        resized = Image.fromarray(wide).resize((wanted, part.shape[0]), Image.Resampling.BICUBIC, box)
        out[top : top + rows, :wanted] = np.asarray(resized)
    return out


def _tower(pixels: U8) -> TowerImage:
    """RGB (P, P, 3) with its digest."""
    pixels = np.ascontiguousarray(pixels)
    return TowerImage(hashlib.sha256(pixels.data).hexdigest(), pixels)


def _masked_crop(rgb: U8, bits: Bits, box: Rectangle) -> tuple[U8, Rectangle]:
    """The visible part of the masked image, and where it lies.

    An image that is black all over has no visible part: then the mask's box is cut out (our choice; the
    published code does not define it).
    """
    rows, columns = slice(box.y_min, box.y_max + 1), slice(box.x_min, box.x_max + 1)
    masked = np.asarray(cv2.copyTo(rgb[rows, columns], bits[rows, columns].view(np.uint8)), np.uint8)
    visible = _visible_rectangle(masked) or Rectangle(0, 0, box.x_max - box.x_min, box.y_max - box.y_min)
    cut = masked[visible.y_min : visible.y_max + 1, visible.x_min : visible.x_max + 1]
    rectangle = Rectangle(
        box.x_min + visible.x_min,
        box.y_min + visible.y_min,
        box.x_min + visible.x_max,
        box.y_min + visible.y_max,
    )
    return cut, rectangle


def _visible_rectangle(rgb: U8) -> Rectangle | None:
    """The smallest rectangle round all pixels of an RGB (H, W, 3) that are not black; None when all are."""
    black = cv2.inRange(rgb, (0, 0, 0), (0, 0, 0))  # (H, W), 255 where black
    x, y, width, height = cv2.boundingRect(cv2.bitwise_not(black))
    return Rectangle(x, y, x + width - 1, y + height - 1) if width else None


def _resized(height: int, width: int, side: int) -> tuple[int, int]:
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
