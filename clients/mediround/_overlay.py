"""Pictures of a result: its image, its mask tinted, what it refers to outlined; and any of them as PNG.

Knows pixels and rectangles. Does not know messages or calls. Files are decoded with Pillow, if the extra
``images`` has brought it; PNG is written without.
"""

from __future__ import annotations

import io
import weakref
from collections.abc import Callable
from os import PathLike
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mediround import pictures
from mediround._png import png
from mediround.errors import FailedPrecondition, InvalidArgument
from mediround.image import ChosenFrame, ImageSource, PlainSource, upload
from mediround.raw import deep_form

Bits: TypeAlias = npt.NDArray[np.bool_]
Pixels: TypeAlias = npt.NDArray[np.uint8]
Rectangle: TypeAlias = tuple[int, int, int, int]
"""x_min, y_min, x_max, y_max; the maxima inclusive."""
Source: TypeAlias = Callable[[], ImageSource | None]
"""The image that a session was opened on, as long as it is there."""

_MASK_COLOUR = np.array([255, 64, 64], np.float32)
_REFERENCE_COLOUR = np.array([255, 208, 0], np.uint8)
_OPACITY = 0.45
_SHOWN_SIDE = 1024


def remembered(image: ImageSource) -> Source:
    """The image without keeping it alive: a result must not hold megabytes. The bytes of a file are not
    remembered.
    """
    if not isinstance(image, ChosenFrame):
        return _kept(image)
    kept, frame, window = _kept(image.image), image.frame, image.window
    return lambda: None if (held := kept()) is None else ChosenFrame(held, frame, window)


def _kept(image: PlainSource) -> Callable[[], PlainSource | None]:
    match image:
        case str() | PathLike():
            return lambda: image
        case bytes() | bytearray():
            return lambda: None
        case _:
            return weakref.ref(image)


def pixels_of(image: ImageSource) -> Pixels:
    """uint8 (H, W, 3).

    Raises:
        FailedPrecondition: it is a file, and Pillow is not installed.
        InvalidArgument, OSError: as ``mediround.image.upload`` does; or no file that Pillow can read.
    """
    sent = upload(image)
    if sent.header.WhichOneof("encoding") == "raw":
        raw = sent.header.raw
        form = deep_form(raw)
        if form is None:
            found = np.frombuffer(sent.payload, np.uint8).reshape(raw.height, raw.width, raw.channels)
        else:
            found = form.grey(sent.payload, raw.height, raw.width)[..., None]
        return np.ascontiguousarray(np.broadcast_to(found, (raw.height, raw.width, 3)))
    try:
        from PIL import Image  # noqa: PLC0415  # its extra need not be installed
    except ModuleNotFoundError:
        words = (
            "to show an image file, Pillow must be installed: in the repository, pip install './clients[images]'"
        )
        raise FailedPrecondition(words) from None
    try:
        with Image.open(io.BytesIO(sent.payload)) as opened:
            return np.asarray(opened.convert("RGB"))
    except pictures.MALFORMED as error:
        raise InvalidArgument(f"image: cannot be shown ({type(error).__name__})") from None


def drawn(base: Pixels, mask: Bits | None, outlined: Rectangle | None) -> Pixels:
    """uint8 (H, W, 3): ``base`` (H, W, 3) with the mask tinted red and the rectangle outlined in yellow."""
    picture = base.copy()
    if mask is not None:
        picture[mask] = (picture[mask] * (1 - _OPACITY) + _MASK_COLOUR * _OPACITY).astype(np.uint8)
    if outlined is not None:
        x_min, y_min, x_max, y_max = outlined
        width = 1 + max(picture.shape[:2]) // 400
        for area in (
            np.s_[y_min : y_min + width, x_min : x_max + 1],
            np.s_[max(y_max + 1 - width, 0) : y_max + 1, x_min : x_max + 1],
            np.s_[y_min : y_max + 1, x_min : x_min + width],
            np.s_[y_min : y_max + 1, max(x_max + 1 - width, 0) : x_max + 1],
        ):
            picture[area] = _REFERENCE_COLOUR
    return picture


def shown(picture: Pixels) -> bytes:
    """PNG of at most about 1024 pixels a side, for a notebook."""
    step = -(-max(picture.shape[:2]) // _SHOWN_SIDE)
    return png(picture[::step, ::step])
