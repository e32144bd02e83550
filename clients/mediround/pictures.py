"""What a picture must be: one rule, for files that the server decodes and for PIL images that a caller has opened.

Knows Pillow's images by their attributes and methods; never imports Pillow. Does not know bytes, limits or calls.

Choices, each so that a mask lies on the very pixels that the caller sees:
- 8 bits a channel; more is refused: the caller knows the window, we would guess it.
- Grey becomes three equal channels; a palette its colours; 1-bit images black and white.
- Alpha is dropped where it is opaque everywhere, else refused: what lies beneath is undefined.
- CMYK, LAB and other colour spaces are refused: their RGB depends on a profile.
- An EXIF orientation other than upright is refused: some viewers turn such an image, others do not.
- More than one frame is refused: a mask would not say which.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

WINDOWING = "must have at most 8 bits a channel: send 16 bits as raw pixels with a window (DICOM VOI LUT)"
FRAMES = "must hold one frame; send each as an image of its own (a PIL image's frame is image.copy())"
TRANSPARENT = "must have no transparent pixels; put it on a background first"
ORIENTED = "must have no EXIF orientation; turn its pixels upright and remove the tag"

# What Pillow raises for files that lie about themselves. None of them says more than "malformed".
MALFORMED = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip

Picture: TypeAlias = Any
"""A ``PIL.Image.Image``, whose types are not here to be named."""

_ORIENTATION, _TURNED = 0x0112, range(2, 9)
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _UNSIGNED = 258, 339, 1
_PLAIN = frozenset({"1", "L", "P", "RGB"})
_WITH_ALPHA = frozenset({"LA", "PA", "RGBA"})
_DEEP = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_DEEP_RAW = re.compile(r"(?:RGB|RGBA|RGBX|LA|L|I);16")
"""How a decoder calls 16 bits a channel that Pillow makes 8 of, in silence. (``BGR;16`` is 5, 6 and 5 bits.)"""
_PNG_DEPTH = 24
"""Where a PNG's header has its bit depth."""


def refusal(image: Picture) -> str | None:
    """Why an image is not served, by what it says of itself: what must be changed. None: it may be."""
    if image.format == "MPO" or getattr(image, "is_animated", False):
        return FRAMES
    if image.mode in _DEEP or _was_deeper(image):
        return WINDOWING
    if image.mode not in _PLAIN | _WITH_ALPHA:
        return f"must be grey or RGB; it is {image.mode}: convert it"
    if image.getexif().get(_ORIENTATION) in _TURNED:
        return ORIENTED
    return None


def opaque(image: Picture) -> Picture | None:
    """The image decoded to RGB, without an alpha that hides nothing; None where it hides something."""
    if image.mode in _PLAIN and "transparency" not in image.info:
        return image.convert("RGB")
    with_alpha = image if image.mode == "RGBA" else image.convert("RGBA")
    lowest, _ = with_alpha.getchannel("A").getextrema()
    return with_alpha.convert("RGB") if lowest == 255 else None


def _was_deeper(image: Picture) -> bool:
    """Whether the file had more than 8 unsigned bits a channel, of which Pillow shows 8."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        unsigned = all(form == _UNSIGNED for form in tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)))
        return max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8 or not unsigned
    if any(_DEEP_RAW.match(word) for word in _raw_modes(image)):
        return True
    if image.format == "PPM" and any(number > 255 for number in _maxima(image)):
        return True
    return image.format == "PNG" and _png_depth(image) > 8


def _raw_modes(image: Picture) -> Iterator[str]:
    """As the file's decoder was told; none once the pixels are decoded."""
    for tile in getattr(image, "tile", None) or ():
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        yield from (each for each in arguments if isinstance(each, str))


def _maxima(image: Picture) -> Iterator[int]:
    for tile in image.tile or ():
        yield from (each for each in tile[3] if isinstance(each, int)) if isinstance(tile[3], tuple) else ()


def _png_depth(image: Picture) -> int:
    """Of the file that a decoded image came from, where it still lies there; 0 where that is not known."""
    name = getattr(image, "filename", "")
    if not isinstance(name, str) or not name:
        return 0
    try:
        if not Path(name).is_file():  # a pipe's end would be waited for
            return 0
        with Path(name).open("rb") as file:
            head = file.read(_PNG_DEPTH + 1)
    except (OSError, ValueError):
        return 0
    return head[_PNG_DEPTH] if len(head) > _PNG_DEPTH and head[12:16] == b"IHDR" else 0
