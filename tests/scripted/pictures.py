"""Made-up pixels for engines and stores: images, references, rounds, sessions, drawn from a seed."""

from __future__ import annotations

import hashlib

import numpy as np

from serving.bundle import Manifest
from serving.domain import EncoderImage, Rectangle, Reference, Round, Session, SourceImage, TowerImage
from serving.geometry import pack_mask


def tower_image(manifest: Manifest, seed: int) -> TowerImage:
    """Two colours: a tower hardly tells noise from other noise."""
    draw = np.random.default_rng(seed)
    pixels = np.empty((manifest.tower.side, manifest.tower.side, 3), np.uint8)
    pixels[:] = draw.integers(0, 256, 3)
    top, left = draw.integers(0, manifest.tower.side // 2, 2)
    pixels[top:, left:] = draw.integers(0, 256, 3)
    return TowerImage(hashlib.sha256(pixels.data).hexdigest(), pixels)


def encoder_image(manifest: Manifest, seed: int, valid_hw: tuple[int, int] | None = None) -> EncoderImage:
    """Zeros outside ``valid_hw``; the whole square by default."""
    side = manifest.image.side
    height, width = valid_hw or (side, side)
    pixels = np.zeros((side, side, 3), np.uint8)
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    pixels[:height, :width] = blocks[rows][:, columns]
    return EncoderImage(hashlib.sha256(pixels.data).hexdigest(), pixels, (height, width))


def reference(manifest: Manifest, seed: int) -> Reference:
    low = np.random.default_rng(seed).uniform(0.05, 0.45, 2)
    high = np.random.default_rng(seed + 1).uniform(0.55, 0.95, 2)
    box = np.array([*low, *high], np.float32)
    rectangle = Rectangle(1, 1, 2, 2)
    return Reference(0, tower_image(manifest, seed + 1000), rectangle, box, rectangle, False)


def finished_round(manifest: Manifest, seed: int) -> Round:
    bits = np.random.default_rng(seed).integers(0, 2, (32, 32)).astype(np.bool_)
    return Round((1, 2, seed), reference(manifest, seed), pack_mask(bits))


def session(manifest: Manifest, session_id: str, caller: str = "anna", side: int = 32) -> Session:
    rgb = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    image = SourceImage(rgb, tower_image(manifest, 1), encoder_image(manifest, 1))
    return Session(session_id, caller, image)
