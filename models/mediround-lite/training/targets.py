"""The 29 structures: their names, their sides, and their voxels in the training head.

Knows AAL's numbering and the rules that turn parcels into visible structures. Does not know slices,
views or questions. A label volume holds one bit per structure, because structures overlap (a thalamus
lies in a hemisphere, a hemisphere in the brain).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Volume = NDArray[np.uint8]
Bits = NDArray[np.bool_]
Planes = NDArray[np.uint32]

SIDES = ("left", "right")
PAIRED = (
    "cerebral hemisphere", "frontal lobe", "parietal lobe", "temporal lobe", "occipital lobe", "cerebellum",
    "thalamus", "caudate nucleus", "lentiform nucleus", "hippocampus", "insula", "cingulate gyrus",
    "lateral ventricle",
)  # fmt: skip
UNPAIRED = ("brain", "vermis", "brain stem")
NAMES: tuple[str, ...] = tuple(f"{side} {name}" for name in PAIRED for side in SIDES) + UNPAIRED
"""Bit k of a label belongs to NAMES[k]. Pairs come first: k ^ 1 is the other side."""
PAIRED_COUNT = 2 * len(PAIRED)

_LOBES = {
    "frontal lobe": [*range(1, 17), 19, 20, *range(23, 29)],
    "parietal lobe": [*range(57, 71)],
    "temporal lobe": [55, 56, *range(79, 91)],
    "occipital lobe": [*range(43, 55)],
    "cerebellum": [*range(91, 109)],
}
_DEEP = {
    "thalamus": [77, 78],
    "caudate nucleus": [71, 72],
    "lentiform nucleus": [73, 74, 75, 76],
    "hippocampus": [37, 38, 41, 42],
    "insula": [29, 30],
    "cingulate gyrus": [*range(31, 37)],
}
_VERMIS = [*range(109, 117)]
_FIRST_CEREBELLAR = 91
_Z_ORIGIN = 71  # slice index of MNI z = 0
_MIDLINE = 90  # column index of MNI x = 0; smaller columns are the patient's left


@dataclass(frozen=True, slots=True)
class Head:
    """One labelled head on a 1 mm grid; axes run to the patient's right, front and top."""

    image: Volume  # (X, Y, Z) T1, with the skull
    stripped: Volume  # (X, Y, Z) the same, 0 outside the brain
    labels: Planes  # (X, Y, Z) bit k set where NAMES[k] is


def side_of(target: int) -> int | None:
    """0 left, 1 right, None for a structure of the midline."""
    return target % 2 if target < PAIRED_COUNT else None


def index(name: str) -> int:
    """Bit of a structure's full name."""
    return NAMES.index(name)


def load_head(templates: Path) -> Head:
    """Read the training head and derive all structures (about ten seconds)."""
    image, stripped, aal = (
        np.asarray(nibabel.load(templates / f"{name}.nii.gz").dataobj, np.uint8)
        for name in ("ch2", "ch2bet", "aal")
    )
    brain = ndimage.binary_fill_holes(stripped > 0)
    labels = _structures(image, np.where(brain, image, 0), aal, brain)
    return Head(image, np.where(brain, image, 0).astype(np.uint8), labels)


def _structures(image: Volume, stripped: Volume, aal: Volume, brain: Bits) -> Planes:
    distance, nearest_at = ndimage.distance_transform_edt(aal == 0, return_indices=True)
    nearest = np.where(brain, aal[tuple(nearest_at)], 0)  # every brain voxel takes its nearest parcel
    left = np.arange(image.shape[0])[:, None, None] < _MIDLINE
    white = float(np.percentile(stripped[brain], 90))
    ventricles = _ventricles(stripped, aal, brain, white)
    stem = _brain_stem(stripped, aal, white)
    planes = np.zeros(image.shape, np.uint32)

    def paint(name: str, where: Bits) -> None:
        planes[where & brain] |= np.uint32(1 << index(name))

    free = ~ventricles & ~stem
    for name, ids in (_LOBES | _DEEP).items():
        reach = 0.0 if name in _DEEP else 6.0 if name == "cerebellum" else 10.0
        for side, odd in zip(SIDES, (1, 0), strict=True):
            chosen = [label for label in ids if label % 2 == odd]
            paint(f"{side} {name}", np.isin(nearest, chosen) & (distance <= reach) & free)
    cerebral = ((nearest > 0) & (nearest < _FIRST_CEREBELLAR) & ~stem) | ventricles
    low = (np.arange(image.shape[2]) < _Z_ORIGIN - 10)[None, None, :]
    cerebral &= ~low | (distance <= 8) | ventricles
    for side, here in zip(SIDES, (left, ~left), strict=True):
        paint(f"{side} cerebral hemisphere", cerebral & here)
        paint(f"{side} lateral ventricle", ventricles & here)
    paint("vermis", np.isin(aal, _VERMIS))
    paint("brain stem", stem)
    paint("brain", brain)
    return planes


def _ventricles(stripped: Volume, aal: Volume, brain: Bits, white: float) -> Bits:
    """Dark voxels deep inside the brain, closed; below z index 78 partial volume leaves nothing to see."""
    depth = ndimage.distance_transform_edt(brain)
    dark = (ndimage.gaussian_filter(stripped.astype(np.float32), 0.5) < 0.55 * white) & (depth > 18) & (aal == 0)
    columns = np.abs(np.arange(dark.shape[0]) - _MIDLINE)
    dark &= ((columns > 1) & (columns < 45))[:, None, None]  # not the midline's third ventricle
    dark[..., :78] = False
    dark = ndimage.binary_closing(dark, iterations=1)
    kept = np.zeros_like(dark)
    for half in (slice(None, _MIDLINE), slice(_MIDLINE, None)):
        kept[half] = _largest(dark[half])
    return np.asarray(kept, np.bool_)


def _brain_stem(stripped: Volume, aal: Volume, white: float) -> Bits:
    """The bright unlabelled column below the thalami."""
    x, y, z = np.ogrid[: aal.shape[0], : aal.shape[1], : aal.shape[2]]
    place = (np.abs(x - _MIDLINE) < 19) & (y - 125 > -48) & (y - 125 < -8) & (z - _Z_ORIGIN < -8)
    bright = (stripped > 0.6 * white) & (aal == 0) & place
    return _largest(ndimage.binary_opening(bright, iterations=2))


def _largest(bits: Bits) -> Bits:
    parts, count = ndimage.label(bits)
    if count == 0:
        return bits
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])), np.bool_)
