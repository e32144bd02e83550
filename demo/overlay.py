"""Pictures of a dialogue: one panel a round, the mask in colour, the reference in outline.

Knows Pillow and numpy. Does not know the service, the atlas or the page.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Bits = npt.NDArray[np.bool_]
U8 = npt.NDArray[np.uint8]

PANEL = 330
MARGIN = 14
HEADING, FOOTING = 74, 62
MASK_COLOUR, REFERENCE_COLOUR, TRUTH_COLOUR = (255, 176, 0), (90, 200, 255), (255, 255, 255)
INK, PAPER = (225, 228, 232), (22, 24, 28)


@dataclass(frozen=True, slots=True)
class PicturePanel:
    heading: str
    """The round and its question."""
    footing: str
    """The answer and its figures."""
    mask: Bits | None
    """(H, W)."""
    reference: Bits | None
    """(H, W): the earlier mask that the question refers to."""
    truth: Bits | None
    """(H, W): the atlas' structure."""


def strip(image: U8, panels: list[PicturePanel]) -> Image.Image:
    """Panels side by side on the image, RGB uint8 (H, W, 3)."""
    width = len(panels) * (PANEL + MARGIN) + MARGIN
    canvas = Image.new("RGB", (width, HEADING + PANEL + FOOTING), PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=15)
    for index, panel in enumerate(panels):
        left = MARGIN + index * (PANEL + MARGIN)
        draw.multiline_text((left, 10), _wrapped(panel.heading), INK, font, spacing=3)
        canvas.paste(_picture(image, panel), (left, HEADING))
        draw.multiline_text((left, HEADING + PANEL + 8), _wrapped(panel.footing), INK, font, spacing=3)
    return canvas


def _picture(image: U8, panel: PicturePanel) -> Image.Image:
    pixels = np.asarray(_scaled(Image.fromarray(image), Image.Resampling.BICUBIC)).copy()
    if panel.mask is not None:
        bits = _bits(panel.mask)
        pixels[bits] = (0.6 * pixels[bits] + 0.4 * np.array(MASK_COLOUR)).astype(np.uint8)
        pixels[_outline(bits)] = MASK_COLOUR
    if panel.truth is not None:
        pixels[_dotted(_outline(_bits(panel.truth)))] = TRUTH_COLOUR
    if panel.reference is not None:
        pixels[_outline(_bits(panel.reference))] = REFERENCE_COLOUR
    return Image.fromarray(pixels)


def _scaled(picture: Image.Image, how: Image.Resampling) -> Image.Image:
    scale = PANEL / max(picture.size)
    canvas = Image.new(picture.mode, (PANEL, PANEL))
    canvas.paste(picture.resize((round(picture.width * scale), round(picture.height * scale)), how))
    return canvas


def _bits(mask: Bits) -> Bits:
    """A mask at the panel's size: bool (PANEL, PANEL)."""
    grey = _scaled(Image.fromarray(mask.astype(np.uint8) * 255), Image.Resampling.BILINEAR)
    return np.asarray(np.asarray(grey) >= 128, np.bool_)


def _outline(bits: Bits) -> Bits:
    """Pixels of the mask with a neighbour outside it."""
    padded = np.pad(bits, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return bits & ~inside


def _dotted(bits: Bits) -> Bits:
    rows, columns = np.indices(bits.shape)
    dots = np.asarray((rows + columns) % 4 < 2, np.bool_)
    return bits & dots


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(text, width=43)
    return "\n".join(lines[:3])
