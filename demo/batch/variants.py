"""Variants of the bundled slices: other bytes, so that nothing of one is cached for another; the same heads.

Knows pictures. Does not know what is asked about them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

_MOST_SHIFT = 12
"""Pixels, each way."""
_NOISE = 3.0
"""Grey levels, one standard deviation."""


def write_variants(slices: Path, out: Path, each: int, seed: int) -> int:
    """Write ``each`` variants of every slice as PNG; how many there are. Equal arguments, equal bytes."""
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for path in sorted(slices.glob("slice_z???.png")):
        with Image.open(path) as picture:
            grey = np.asarray(picture.convert("L"), np.float64)
        for number in range(each):
            draw = np.random.default_rng((seed, count))
            Image.fromarray(_variant(grey, draw)).save(out / f"{path.stem}-{number:03}.png")
            count += 1
    return count


def _variant(grey: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    moved = np.roll(grey, tuple(draw.integers(-_MOST_SHIFT, _MOST_SHIFT + 1, 2)), (0, 1))
    low, high = draw.uniform(0, 10), draw.uniform(235, 255)  # a window
    shown = (moved - low) * (255 / (high - low)) + draw.normal(0, _NOISE, grey.shape)
    return np.clip(np.rint(shown), 0, 255).astype(np.uint8)
