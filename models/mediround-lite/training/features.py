"""Views and their encoder features, made once and kept on disk.

Knows how many views a slice gets, their seeds, and the frozen half of LiteMedSAM's encoder (all before
the neck). Does not know what is trained on them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.modules.tiny_vit import TinyViT
from serving.bundle import ImageSpec, TowerSpec
from serving.geometry import Geometry
from training import views
from training.targets import Head
from training.views import View

SEED = 2026
MILD = 0.4
"""How far every other random view varies, of a full one: a scanner's own slices are nearer to these."""
BF16 = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
"""Whether this CPU computes in bfloat16, twice as fast as in float32; one that imitates it takes twice as long."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
GEOMETRY = Geometry(
    ImageSpec(side=256, preprocessing="minmax_valid", embedding=(256, 64, 64), logits_side=256),
    TowerSpec(side=112, tokens=64, mean=CLIP_MEAN, std=CLIP_STD),
    encoder_digest="training",
)
"""The serving path's own geometry, with the sizes of this model."""
_CELLS = (320, 64, 64)


@dataclass(frozen=True, slots=True)
class Views:
    """Views of some slices, in rows; the first ``len(features)`` rows are encoded."""

    z: NDArray[np.int32]  # (N,)
    images: NDArray[np.uint8]  # (N, 217, 217)
    labels: NDArray[np.uint32]  # (N, 217, 217)
    features: NDArray[np.float16]  # (M, 320, 64, 64) before the neck; M <= N


def draw(head: Head, slices: list[int], count: int, first: int = 0) -> list[View]:
    """``count`` views of each slice, numbered from ``first``: 0 is clean, 1 stripped, the others are random,
    odd numbers mildly.

    View after view, not slice after slice.
    """
    rows = []
    for number in range(first, first + count):
        for z in slices:
            random = np.random.default_rng([SEED, z, number])
            strength = MILD if number % 2 else 1.0
            plain = number < 2
            rows.append(
                views.clean(head, z, stripped=number == 1) if plain else views.varied(head, z, random, strength)
            )
    return rows


def prepare(directory: Path, name: str, rows: list[View], encoded: int, encoder: TinyViT, *, half: bool) -> Views:
    """Store rows and encode the first ``encoded``; continues where an earlier run stopped."""
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(
        directory / f"{name}.npz",
        z=np.array([row.z for row in rows], np.int32),
        images=np.stack([row.image for row in rows]),
        labels=np.stack([row.labels for row in rows]),
    )
    path, progress = directory / f"{name}.features.npy", directory / f"{name}.done"
    if not path.exists():
        np.lib.format.open_memmap(path, "w+", np.float16, (encoded, *_CELLS)).flush()  # type: ignore[no-untyped-call]  # NumPy leaves it so
        progress.write_text("0")
    store = np.lib.format.open_memmap(path, "r+")  # type: ignore[no-untyped-call]  # NumPy leaves it so
    start = time.monotonic()
    for row in range(int(progress.read_text()), encoded):
        store[row] = encode(encoder, rows[row].image, half=half)[0].numpy()
        if row % 20 == 19 or row == encoded - 1:
            store.flush()
            progress.write_text(str(row + 1))
            print(f"{name}: {row + 1}/{encoded} encoded, {time.monotonic() - start:.0f} s", flush=True)
    return load(directory, name)


def load(directory: Path, name: str) -> Views:
    """Views stored by ``prepare``."""
    with np.load(directory / f"{name}.npz") as stored:
        features = np.load(directory / f"{name}.features.npy", mmap_mode="r")
        return Views(stored["z"], stored["images"], stored["labels"], features)


@torch.inference_mode()
def encode(encoder: TinyViT, image: NDArray[np.uint8], *, half: bool) -> torch.Tensor:
    """Grey image (H, W) → features before the neck (1, 320, 64, 64), by the serving path's resizing.

    ``half`` computes in bfloat16 where the CPU does: its rounding (6 % of a feature's spread) only adds to
    the variation of training views. What is measured is computed in fp32.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=half and BF16):
        return encoder.features(pixels(image).contiguous(memory_format=torch.channels_last)).half()


def pixels(image: NDArray[np.uint8]) -> torch.Tensor:
    """Grey image (H, W) → the encoder's input (1, 3, 256, 256), 0..1 over the valid part, zeros outside."""
    shown = GEOMETRY.encoder_image(GEOMETRY.source_image(rgb(image)))
    height, width = shown.valid_hw
    whole = torch.from_numpy(shown.pixels).permute(2, 0, 1)[None].float()
    valid = whole[:, :, :height, :width]
    low, high = valid.min(), valid.max()
    whole[:, :, :height, :width] = (valid - low) / (high - low).clamp(min=1e-8)
    return whole


def rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey (H, W) → RGB (H, W, 3)."""
    return np.ascontiguousarray(np.repeat(image[..., None], 3, axis=2))


def load_encoder(weights: Path) -> TinyViT:
    """LiteMedSAM's encoder, frozen."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    prefix = "image_encoder."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    encoder = TinyViT.of(own).requires_grad_(False)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU
    return encoder
