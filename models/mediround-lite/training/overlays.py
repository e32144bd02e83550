"""The card's picture of good and bad masks: ``python -m training.overlays --checkpoint DIR``.

Knows the committed test slices, colours, and the rule that chooses: every structure of at least 200 pixels is
asked for by name (whole brain and hemispheres aside); shown are the best and the worst mask of as many different
structures. Nothing is chosen by eye.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training import checkpoint
from training.evaluate import EASY
from training.features import GEOMETRY, pixels, rgb
from training.judgment import told
from training.play import Player
from training.rows import Script
from training.slices import SLICES
from training.targets import NAMES
from training.views import View
from training.vision import ASKABLE, dice, full_size, present
from training.vocabulary import prompt_form

SHOWN, CAPTION = 5, 34
BOTH, ONLY_MODEL, ONLY_LABEL = (60, 190, 90), (230, 70, 60), (70, 120, 240)
Picture = NDArray[np.uint8]
HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Drawn:
    """One mask beside its label."""

    structure: int
    dice: float
    picture: Picture


def committed(z: int) -> View:
    """A committed test slice with its label planes."""
    image = np.asarray(Image.open(HERE / f"slices/slice_z{z:03d}.png"))
    bits = np.ascontiguousarray(np.asarray(Image.open(HERE / f"slices/slice_z{z:03d}_labels.png")))
    return View(z, image, bits.view("<u4")[..., 0].astype(np.uint32))


@torch.inference_mode()
def drawn(player: Player, view: View) -> list[Drawn]:
    """Every structure of a slice, as the model draws it when asked by name."""
    hidden = {NAMES.index(name) for name in EASY}
    asked = [k for k in present(view.labels, ASKABLE).tolist() if k not in hidden]
    features = told(player.half, player.script, GEOMETRY.source_image(rgb(view.image)).tower, asked)
    logits, _ = player.model.mask_decoder(player.model.image_encoder(pixels(view.image)), features[None])
    found = []
    for k, mask in zip(asked, logits[0].numpy(), strict=True):
        truth = (view.labels & np.uint32(1 << k)) > 0
        shown = full_size(mask, view.image.shape[0])
        worth = dice(shown, truth)
        found.append(Drawn(k, worth, _captioned(_overlay(view.image, shown, truth), view.z, NAMES[k], worth)))
    return found


def sheet(masks: list[Drawn]) -> Picture:
    """The best above, the worst below; each structure at most once in a row."""
    rows = []
    for order in (-1, 1):
        chosen: dict[int, Drawn] = {}
        for one in sorted(masks, key=lambda mask: order * mask.dice):
            chosen.setdefault(one.structure, one)
        rows.append(np.hstack([one.picture for one in list(chosen.values())[:SHOWN]]))
    return np.vstack(rows)


def _overlay(image: Picture, mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Picture:
    shown = rgb(image).astype(np.float32)
    for where, colour in ((mask & truth, BOTH), (mask & ~truth, ONLY_MODEL), (truth & ~mask, ONLY_LABEL)):
        shown[where] = 0.4 * shown[where] + 0.6 * np.array(colour)
    return np.asarray(shown, np.uint8)


def _captioned(picture: Picture, z: int, name: str, worth: float) -> Picture:
    below = np.zeros((CAPTION, picture.shape[1], 3), np.uint8)
    for line, text in enumerate((name, f"slice {z}, Dice {worth:.2f}")):
        cv2.putText(
            below, text, (4, 13 + 15 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA
        )
    return np.vstack([picture, below])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, required=True, help="directory that training wrote")
    parser.add_argument("--out", type=Path, default=HERE / "overlays.png")
    arguments = parser.parse_args()
    script = Script(prompt_form(arguments.checkpoint / "base/tokenizer.model"))
    player = Player(checkpoint.read(arguments.checkpoint), script)
    masks = [one for z in SLICES for one in drawn(player, committed(z))]
    Image.fromarray(sheet(masks)).quantize(128).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
