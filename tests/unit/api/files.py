"""Files of pictures, as an image library writes them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
GREY = RGB[..., 0]


def encoded(image: Image.Image | np.ndarray, form: str = "PNG", **options: object) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()
