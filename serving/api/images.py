"""Image decoding: bytes of unknown origin to RGB uint8 (H, W, 3), or a refusal that says what to change.

Knows PNG, JPEG and TIFF through Pillow, and raw pixels. What a file claims (size, frames, depth) is checked
before any pixel is decoded. Does not know callers, sessions or the model.

What a picture must be beyond that, and why, says ``mediround.pictures``; and
- A file of which a part is missing or damaged is refused, also where a decoder would fill the gap.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

from mediround import pictures
from mediround.pictures import MALFORMED
from mediround.raw import DeepForm
from serving.api import integrity
from serving.api.integrity import FIELD
from serving.api.limits import Limits
from serving.domain import U8, Bits
from serving.errors import InvalidInput

DICOM_ADVICE = (
    "read it with the client (mediround.dicom), or send its stored values as raw 16-bit pixels with a window"
)

_TILE_WIDTH, _TILE_LENGTH = 322, 323
_COMPRESSION, _JPEG_TABLES = 259, 347
_EXTENTS = ((273, 279), (324, 325))
"""Offsets and byte counts, of strips and of tiles."""
_DICOM = slice(128, 132)

_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class RawShape:
    """Raw pixels: rows from the top, channels interleaved."""

    height: int
    width: int
    channels: int
    deep: DeepForm | None = None
    """Of 16 bits: what they mean, and their window. None: 8 bits."""

    @property
    def nbytes(self) -> int:
        return self.height * self.width * self.channels * (1 if self.deep is None else 2)

    @property
    def window(self) -> str:
        """What makes 8 bits of 16; empty where there are 8."""
        return "" if self.deep is None else str(self.deep)

    @property
    def form(self) -> str:
        """Of a ``ContentAddress``: the same bytes in another window are another image."""
        size = f"{self.height}x{self.width}x{self.channels}"
        return f"uint8 {size}" if self.deep is None else f"16 bits {size}, {self.deep}"


def libraries() -> dict[str, str]:
    """Versions of what decodes files, by name."""
    candidates = (
        ("libjpeg-turbo", "libjpeg_turbo"),
        ("libtiff", "libtiff"),
        ("zlib-ng", "zlib_ng"),
        ("zlib", "zlib"),
    )
    versions = {name: features.version(feature) for name, feature in candidates}
    return {"pillow": PIL.__version__} | {name: version for name, version in versions.items() if version}


def check_raw(shape: RawShape, limits: Limits) -> None:
    """Raises InvalidInput for a shape that is not served, before its bytes are there."""
    if shape.channels not in {1, 3}:
        raise InvalidInput("header.raw.channels", "must be 1 (grey) or 3 (RGB)")
    _check_size(shape.height, shape.width, limits)


def rgb_of_pixels(payload: bytes, shape: RawShape) -> U8:
    """Raw pixels of a checked shape, as RGB uint8 (H, W, 3); 16 bits by their window. Raises InvalidInput when
    their number differs.
    """
    if len(payload) != shape.nbytes:
        raise InvalidInput(
            "chunk", f"must hold the {shape.nbytes} bytes of the header's shape; {len(payload)} were sent"
        )
    if shape.deep is not None:
        pixels = shape.deep.grey(payload, shape.height, shape.width)[..., None]
    else:
        pixels = np.frombuffer(payload, np.uint8).reshape(shape.height, shape.width, shape.channels)
    return _frozen(np.broadcast_to(pixels, (shape.height, shape.width, 3)))


def rgb_of_file(payload: bytes, limits: Limits) -> U8:
    """A PNG, JPEG or TIFF file as RGB uint8 (H, W, 3).

    Raises:
        InvalidInput: not such a file, truncated or malformed; beyond a limit; or a kind that the head of this
            module refuses.
    """
    if payload[_DICOM] == b"DICM":
        raise InvalidInput(FIELD, f"is a DICOM file; {DICOM_ADVICE}")
    try:
        with Image.open(io.BytesIO(payload), formats=["PNG", "JPEG", "TIFF"]) as image:
            _check_claims(image, payload, limits)
            _check_whole(image, payload, limits)
            return _frozen(np.asarray(_opaque(image)))
    except UnidentifiedImageError:
        raise InvalidInput(FIELD, "must be a PNG, JPEG or TIFF file") from None
    except _BOMB:
        raise _too_large(limits) from None
    except MALFORMED as error:
        # The library's words may quote the file; its error's name does not.
        raise InvalidInput(FIELD, f"is truncated or malformed ({type(error).__name__})") from None


def bits_of_png(payload: bytes, height: int, width: int) -> Bits:
    """A mask that came as PNG, bool (H, W): 1-bit grey, or 8-bit grey of 0 and 255 alone.

    Raises:
        InvalidInput: (``data``) not such a file, of another size, truncated or malformed.
    """
    try:
        with Image.open(io.BytesIO(payload), formats=["PNG"]) as image:
            if (image.height, image.width) != (height, width):
                raise InvalidInput("data", f"must be a PNG of {height}x{width}")
            if image.mode not in {"1", "L"}:
                raise InvalidInput(
                    "data", "must be a PNG of one grey channel, of 1 bit, or of 8 bits that are 0 or 255"
                )
            _check_png(payload)
            integrity.check_png(payload)
            pixels = np.asarray(image)
    except UnidentifiedImageError:
        raise InvalidInput("data", "must be a PNG file") from None
    except InvalidInput as error:
        raise InvalidInput("data", error.description) from None
    except (*_BOMB, *MALFORMED) as error:
        raise InvalidInput("data", f"is truncated or malformed ({type(error).__name__})") from None
    if pixels.dtype == np.uint8 and not np.isin(pixels, (0, 255)).all():
        raise InvalidInput("data", "must be a PNG of 0 and 255 alone: grey in between is no mask")
    return np.asarray(pixels, np.bool_)


def _check_claims(image: Image.Image, payload: bytes, limits: Limits) -> None:
    """Refuse by what the file's headers say, sizes first: what comes last may decode the pixels."""
    _check_size(image.height, image.width, limits)
    if image.format == "PNG":
        _check_png(payload)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image, limits)
    if refusal := pictures.refusal(image):
        raise InvalidInput(FIELD, refusal)


def _check_whole(image: Image.Image, payload: bytes, limits: Limits) -> None:
    """Refuse what is damaged, as far as anyone can know (``serving.api.integrity``)."""
    if image.format == "PNG":
        integrity.check_png(payload)
    elif image.format == "JPEG":
        integrity.check_jpeg(payload)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_strips(image, payload, limits)


def _check_strips(image: TiffImagePlugin.TiffImageFile, payload: bytes, limits: Limits) -> None:
    integrity.check_extents(payload)
    tags = image.tag_v2
    compression, tables = tags.get(_COMPRESSION, integrity.UNCOMPRESSED), tags.get(_JPEG_TABLES, b"")
    for offsets, counts in _EXTENTS:
        for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=True):
            if offset + count > len(payload):
                raise InvalidInput(FIELD, "is a truncated TIFF; send the original file")
            strip = payload[offset : offset + count]
            integrity.check_strip(strip, compression, tables, 4 * limits.max_image_pixels)


def _check_png(payload: bytes) -> None:
    if payload[12:16] != b"IHDR":
        raise InvalidInput(FIELD, "is a malformed PNG: its header does not come first")


def _check_tiff(image: TiffImagePlugin.TiffImageFile, limits: Limits) -> None:
    tags = image.tag_v2
    if tags.get(_COMPRESSION, integrity.UNCOMPRESSED) not in integrity.COMPRESSIONS:
        raise InvalidInput(FIELD, "must be a TIFF compressed by LZW, Deflate or not at all; save it so")
    # A tile may be larger than the image, and is decoded whole.
    if tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0) > limits.max_image_pixels:
        raise _too_large(limits)


def _check_size(height: int, width: int, limits: Limits) -> None:
    if not height or not width:
        raise InvalidInput(FIELD, "must have pixels")
    if height * width > limits.max_image_pixels:
        raise _too_large(limits)
    if max(height, width) > limits.max_aspect_ratio * min(height, width):
        raise InvalidInput(
            FIELD,
            f"the longer side must be at most {limits.max_aspect_ratio} times the shorter; it is {height}x{width}",
        )


def _opaque(image: Image.Image) -> Image.Image:
    rgb: Image.Image | None = pictures.opaque(image)
    if rgb is None:
        raise InvalidInput(FIELD, pictures.TRANSPARENT)
    return rgb


def _too_large(limits: Limits) -> InvalidInput:
    return InvalidInput(FIELD, f"must have at most {limits.max_image_pixels} pixels; scale it down")


def _frozen(pixels: U8) -> U8:
    """Read-only: sessions on the same upload share the memory."""
    rgb = np.ascontiguousarray(pixels)
    rgb.flags.writeable = False
    return rgb
