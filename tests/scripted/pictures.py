"""Made-up pixels for engines and stores: images, references, rounds, sessions, drawn from a seed.

Pictures cannot be written: those that Pillow has resized cannot be either.
"""

from __future__ import annotations

import hashlib

import numpy as np

from serving.bundle import Manifest
from serving.domain import EncoderImage, Mask, Rectangle, Reference, Segmentation, SourceImage, TowerImage
from serving.history import changes
from serving.history.record import Session, SessionRecord
from serving.history.rounds import MaskSource, ReferredMask, Round, UsedReference
from serving.pixels.masks import pack_mask
from serving.ports import SessionStore


def tower_image(manifest: Manifest, seed: int) -> TowerImage:
    """Two colours: a tower hardly tells noise from other noise."""
    draw = np.random.default_rng(seed)
    pixels = np.empty((manifest.tower.side, manifest.tower.side, 3), np.uint8)
    pixels[:] = draw.integers(0, 256, 3)
    top, left = draw.integers(0, manifest.tower.side // 2, 2)
    pixels[top:, left:] = draw.integers(0, 256, 3)
    pixels.flags.writeable = False
    return TowerImage(hashlib.sha256(pixels.data).hexdigest(), pixels)


def encoder_image(manifest: Manifest, seed: int, valid_hw: tuple[int, int] | None = None) -> EncoderImage:
    """Zeros outside ``valid_hw``; the whole square by default."""
    side = manifest.image.side
    height, width = valid_hw or (side, side)
    pixels = np.zeros((side, side, 3), np.uint8)
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    pixels[:height, :width] = blocks[rows][:, columns]
    pixels.flags.writeable = False
    return EncoderImage(hashlib.sha256(pixels.data).hexdigest(), pixels, (height, width))


def reference(manifest: Manifest, seed: int) -> Reference:
    low = np.random.default_rng(seed).uniform(0.05, 0.45, 2)
    high = np.random.default_rng(seed + 1).uniform(0.55, 0.95, 2)
    box = np.array([*low, *high], np.float32)
    rectangle = Rectangle(1, 1, 2, 2)
    return Reference(0, tower_image(manifest, seed + 1000), rectangle, box, rectangle, False)


def mask(seed: int, side: int = 32) -> Mask:
    return pack_mask(np.random.default_rng(seed).integers(0, 2, (side, side)).astype(np.bool_))


def finished_round(manifest: Manifest, seed: int) -> Round:
    """It has used the mask of the round before, whichever that is."""
    shown = reference(manifest, seed)
    used = UsedReference.of(ReferredMask(mask(max(seed - 1, 0)), MaskSource.ROUND, 0, f"r{seed - 1}", ""), shown)
    made = Segmentation(mask(seed), 0.5, corrected=False, log_probability=-0.5)
    return Round(f"r{seed}", "Where?", "Here [SEG].", (1, 2, seed), used, shown, made)


def session(manifest: Manifest, session_id: str, caller: str = "anna", side: int = 32) -> Session:
    rgb = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    image = SourceImage(rgb, "0" * 64, tower_image(manifest, 1))
    return Session(SessionRecord(session_id, caller, image.size), image)


async def append(store: SessionStore, held: Session, rounds: list[Round]) -> Session:
    """Commit rounds to a session that is held."""
    record = changes.with_rounds(held.record, rounds, [], None)
    await store.commit(record)
    return Session(record, held.image)
