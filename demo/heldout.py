"""The committed test slices as a data set in the MR-MedSeg form, for ``mediround evaluate``.

    python -m demo.heldout --slices models/mediround-lite/slices --out build/heldout

First the demo's dialogues. Then, on every slice, every structure that counts there: asked by name, and where it
counts on both sides, the other side asked for by reference. Which side comes first alternates. Nothing is drawn
by chance. Knows the slices' files and the form. Does not know the service.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from demo.slices import LABELS, U8, plane
from mediround import __version__

MIN_PIXELS = 60
"""A structure counts on a slice from here on, as in training (training/targets.py)."""
_BY_NAME = "Segment the {}."
_MIRROR = "Segment the same structure on the other side."
_LEFT, _RIGHT = "left ", "right "


@dataclass(frozen=True, slots=True)
class HeldoutQuestion:
    question: str
    refer_to: int | None
    target: str


class Slices:
    """The slices of one directory, and the masks that were taken from them."""

    def __init__(self, slices: Path, out: Path) -> None:
        self._slices, self._out = slices, out
        self.numbers: dict[str, int] = {
            name: int(number) for number, name in json.loads((slices / LABELS).read_text()).items()
        }
        for name in ("images", "masks"):
            (out / name).mkdir(parents=True, exist_ok=True)

    def images(self) -> Iterator[str]:
        """Names of the slices that have labels, in order."""
        for labels in sorted(self._slices.glob("*_labels.png")):
            yield f"{labels.stem.removesuffix('_labels')}.png"

    def counting(self, image: str) -> set[str]:
        """Names of the structures that count on a slice."""
        labels = self._labels(image)
        return {n for n, k in self.numbers.items() if np.count_nonzero(plane(labels, k)) >= MIN_PIXELS}

    def item(self, image: str, rounds: list[HeldoutQuestion]) -> dict[str, object]:
        """A dialogue in the form; writes the pictures that it names."""
        shutil.copyfile(self._slices / image, self._out / "images" / image)
        masks = [self._mask(image, asked.target) for asked in rounds]
        turns: list[dict[str, object]] = []
        for number, (asked, mask) in enumerate(zip(rounds, masks, strict=True)):
            human: dict[str, object] = {"from": "human"}
            shown = f"[IMAGE256:images/{image}] " if number == 0 else ""
            if asked.refer_to is not None:
                referred = masks[asked.refer_to]
                shown += f"[MASK-ENCODE:{referred}][BOX-ENCODE:{referred}] "
                human["ind"] = asked.refer_to
            human["value"] = shown + asked.question
            turns += [human, {"from": "gpt", "value": f"It is the {asked.target} [MASK-DECODE:{mask}]."}]
        return {"task": "segmentation", "conversations": turns}

    def _mask(self, image: str, target: str) -> str:
        """Write a structure's mask; its path in the data set."""
        path = f"masks/{Path(image).stem}_{target.replace(' ', '_')}.png"
        mask = plane(self._labels(image), self.numbers[target])
        Image.fromarray(mask).save(self._out / path, optimize=True)
        return path

    def _labels(self, image: str) -> U8:
        """(H, W, 4) label planes."""
        return np.asarray(Image.open(self._slices / f"{Path(image).stem}_labels.png"))


def write(directory: Path, out: Path) -> int:
    """Write ``dialogues.json`` and its pictures into ``out``; the number of dialogues."""
    slices = Slices(directory, out)
    items = [
        slices.item(
            item["image"], [HeldoutQuestion(r["question"], r["refer_to"], r["target"]) for r in item["rounds"]]
        )
        for item in json.loads((directory / "dialogues.json").read_text())
    ]
    items += [slices.item(image, rounds) for image in slices.images() for rounds in _structures(slices, image)]
    (out / "dialogues.json").write_text(json.dumps(items, indent=1) + "\n")
    return len(items)


def _structures(slices: Slices, image: str) -> Iterator[list[HeldoutQuestion]]:
    """Each structure of a slice by name; where both sides count, the other by reference to the first."""
    counting = slices.counting(image)
    for number, name in enumerate(sorted(counting)):
        other = name.replace(_LEFT, _RIGHT) if name.startswith(_LEFT) else name.replace(_RIGHT, _LEFT)
        if other == name or other not in counting:
            yield [HeldoutQuestion(_BY_NAME.format(name), None, name)]
        elif name.startswith(_LEFT):
            first, second = (name, other) if number % 2 else (other, name)
            yield [HeldoutQuestion(_BY_NAME.format(first), None, first), HeldoutQuestion(_MIRROR, 0, second)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.heldout", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--slices", type=Path, default=Path("models/mediround-lite/slices"))
    parser.add_argument("--out", type=Path, default=Path("build/heldout"))
    given = parser.parse_args()
    if not (given.slices / LABELS).is_file():
        parser.error(f"--slices must hold {LABELS}, as models/mediround-lite/slices does: {given.slices}")
    print(f"{write(given.slices, given.out)} dialogues: {given.out / 'dialogues.json'}")


if __name__ == "__main__":
    main()
