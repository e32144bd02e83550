"""Slices as a PACS would send them, and random variations of them.

Knows orientation (radiological: the patient's left is on the image's right), the centred square of 217
pixels, and how an image and its label planes are varied together. Does not know networks.
A view is made before the encoder sees it: the embedding of a flipped image is no flipped embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from training.targets import NAMES, PAIRED_COUNT, Head

SIDE = 217
Image = NDArray[np.uint8]
Planes = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class View:
    """One square image with its label planes."""

    z: int
    image: Image  # (217, 217)
    labels: Planes  # (217, 217) bit k set where targets.NAMES[k] is


def clean(head: Head, z: int, *, stripped: bool = False) -> View:
    """The slice itself, unvaried."""
    volume = head.stripped if stripped else head.image
    return View(z, _square(volume[:, :, z]), _square(head.labels[:, :, z]))


def varied(head: Head, z: int, random: np.random.Generator, strength: float = 1.0) -> View:
    """A random view: pose, shape, side, contrast, field, blur, noise and skull vary.

    ``strength`` scales how far; sides and skull vary by chance.
    """
    volume = head.stripped if random.random() < 0.45 else head.image
    image = _square(_between(volume, z, strength * random.uniform(-0.5, 0.5)))
    view = View(z, image, _square(head.labels[:, :, z]))
    view = _warped(view, random, strength)
    if random.random() < 0.5:
        view = View(z, view.image[:, ::-1].copy(), swap_sides(view.labels[:, ::-1]))
    return View(z, _contrast(view.image, random, strength), view.labels)


def planes(labels: Planes) -> NDArray[np.bool_]:
    """Label bits (H, W) → one mask per structure (29, H, W)."""
    return np.stack([(labels >> np.uint32(k)) & 1 for k in range(len(NAMES))]).astype(np.bool_)


def swap_sides(labels: Planes) -> Planes:
    """Exchange left and right in label bits (what a mirrored image shows on the other side)."""
    pairs = np.uint32((1 << PAIRED_COUNT) - 1)
    odd = np.uint32(0xAAAAAAAA) & pairs
    even = np.uint32(0x55555555) & pairs
    return np.asarray(((labels & even) << 1) | ((labels & odd) >> 1) | (labels & ~pairs), np.uint32)


def _square(plane: Any) -> Any:
    """Columns to the patient's left, rows to the back, padded to a centred square."""
    shown = np.fliplr(np.rot90(plane))
    rows, columns = (SIDE - shown.shape[0], SIDE - shown.shape[1])
    return np.ascontiguousarray(
        np.pad(shown, ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)))
    )


def _between(volume: Image, z: int, shift: float) -> Image:
    other = volume[:, :, z + (1 if shift > 0 else -1)].astype(np.float32)
    mixed = volume[:, :, z] * (1 - abs(shift)) + other * abs(shift)
    return np.asarray(np.rint(mixed), np.uint8)


def _warped(view: View, random: np.random.Generator, strength: float) -> View:
    """Rotate, scale, shift and bend image and labels by the same grid."""
    angle = np.deg2rad(strength * random.uniform(-9, 9))
    scale = random.uniform(0.88, 1.10) ** -strength
    aspect = 1 + strength * random.uniform(-0.06, 0.06)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = np.concatenate(
        [turn * scale * [aspect, 1 / aspect], strength * random.uniform(-0.06, 0.06, (2, 1))], axis=1
    )
    grid = F.affine_grid(torch.tensor(affine[None], dtype=torch.float32), [1, 1, SIDE, SIDE], align_corners=False)
    bend = torch.tensor(random.normal(0, 0.014 * strength, (1, 2, 6, 6)), dtype=torch.float32)
    bend = F.interpolate(bend, (SIDE, SIDE), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    source = np.concatenate([view.image[None].astype(np.float32), planes(view.labels).astype(np.float32)])
    moved = F.grid_sample(torch.from_numpy(source)[None], grid + bend, align_corners=False)[0].numpy()
    labels = np.zeros_like(view.labels)
    for k, plane in enumerate(moved[1:]):
        labels |= np.where(plane > 0.5, np.uint32(1 << k), np.uint32(0))
    return View(view.z, np.asarray(np.rint(moved[0]), np.uint8), labels)


def _contrast(image: Image, random: np.random.Generator, strength: float) -> Image:
    """Vary what a scanner and a window vary: gamma, bias field, blur, noise, gain (some clipped)."""
    x = (image / 255.0) ** (random.uniform(0.7, 1.45) ** strength)
    field = torch.tensor(random.normal(0, 0.16 * strength * random.random(), (1, 1, 3, 3)))
    x = x * np.exp(F.interpolate(field, image.shape, mode="bicubic", align_corners=True)[0, 0].numpy())
    if random.random() < 0.3 * strength:
        x = ndimage.gaussian_filter(x, random.uniform(0.3, 1.0))
    x = x + random.normal(0, 0.04 * strength * random.random(), x.shape) * (x > 0)
    peak = max(float(np.percentile(x, 99.5)), 1e-3)
    return np.asarray(np.clip(np.rint(x / peak * random.uniform(0.5, 1.05) ** strength * 255), 0, 255), np.uint8)
