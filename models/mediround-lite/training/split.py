"""Which slices train, choose and measure.

Knows slab bounds along the head only. Slices are split by slabs with unused gaps between, because
neighbouring slices of one head are nearly equal.
"""

from __future__ import annotations

import json
from pathlib import Path

FIRST, LAST = 18, 139  # axial slice indices that show brain
GAP = 2
DEV_SLABS = ((56, 59), (88, 91))


def _is_test(z: int) -> bool:
    return 20 <= (z - FIRST) % 32 <= 27


def test() -> list[int]:
    """Slices that are measured once, at the end."""
    return [z for z in range(FIRST, LAST + 1) if _is_test(z)]


def dev() -> list[int]:
    """Slices that choices are made on."""
    return [z for low, high in DEV_SLABS for z in range(low, high + 1)]


def train() -> list[int]:
    """Slices at least ``GAP`` + 1 away from every test and dev slice."""
    held = {*test(), *dev()}
    near = {z + step for z in held for step in range(-GAP, GAP + 1)}
    return [z for z in range(FIRST, LAST + 1) if z not in near]


def write(path: Path) -> None:
    """Write the split as JSON, so that the evaluation of a bundle needs no training code."""
    plane = "axial, index along the 1 mm grid of ch2.nii.gz (index 71 is MNI z = 0)"
    content = {"plane": plane, "gap": GAP, "train": train(), "dev": dev(), "test": test()}
    path.write_text(json.dumps(content) + "\n")
