"""The test slices that are committed, with labels and dialogues, for the demo and the tests.

Knows their files. Does not know the model. Label planes are stored as bits of an RGBA picture: structure
k of ``labels.json`` is bit k % 8 of channel k // 8, because structures overlap.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from training import split
from training.targets import NAMES, Head, index
from training.views import clean
from training.vision import ASKABLE, areas

SLICES = (43, 70, 73, 76, 104)
SLAB = tuple(range(70, 78))
"""Of test slices, whole, for the demonstration with a PACS."""
DIALOGUES: tuple[tuple[int, tuple[tuple[str, int | None, str], ...]], ...] = (
    (76, (
        ("Segment the left thalamus.", None, "left thalamus"),
        ("Segment the same structure on the other side.", 0, "right thalamus"),
        ("Segment the hemisphere that contains it.", 1, "right cerebral hemisphere"),
        ("Segment the lentiform nucleus on the same side.", 0, "left lentiform nucleus"),
        ("Segment the whole brain.", None, "brain"),
    )),
    (73, (
        ("Where is the right caudate nucleus?", None, "right caudate nucleus"),
        ("Segment the insula on the same side.", 0, "right insula"),
        ("Segment the same structure on the other side.", 1, "left insula"),
        ("Segment the thalamus on the other side.", 0, "left thalamus"),
        ("Segment the hemisphere that contains it.", 3, "left cerebral hemisphere"),
    )),
    (104, (
        ("Outline the right frontal lobe.", None, "right frontal lobe"),
        ("Segment the parietal lobe on the same side.", 0, "right parietal lobe"),
        ("Segment the same structure on the other side.", 1, "left parietal lobe"),
        ("Segment the same structure on the other side.", 0, "left frontal lobe"),
    )),
    (43, (
        ("Segment the left cerebellum.", None, "left cerebellum"),
        ("Segment the temporal lobe on the other side.", 0, "right temporal lobe"),
        ("Segment the same structure on the other side.", 0, "right cerebellum"),
        ("Segment the same structure on the other side.", 1, "left temporal lobe"),
    )),
)  # fmt: skip
"""(slice, rounds of question, earlier round it refers to, structure that answers it)."""


def write(directory: Path, head: Head) -> None:
    """Write pictures, label planes, their names, and the dialogues."""
    directory.mkdir(parents=True, exist_ok=True)
    for z in SLICES:
        if z not in split.test():
            raise AssertionError(f"slice {z} was trained on")
        view = clean(head, z)
        Image.fromarray(view.image).save(directory / f"slice_z{z:03d}.png", optimize=True)
        channels = view.labels.astype("<u4")[..., None].view(np.uint8)  # (217, 217, 4)
        Image.fromarray(channels, "RGBA").save(directory / f"slice_z{z:03d}_labels.png", optimize=True)
    (directory / "labels.json").write_text(json.dumps(dict(enumerate(NAMES)), indent=1) + "\n")
    (directory / "dialogues.json").write_text(json.dumps(_dialogues(head), indent=1) + "\n")


def write_slab(directory: Path, head: Head) -> None:
    """Write the pictures of the slab."""
    directory.mkdir(parents=True, exist_ok=True)
    for z in SLAB:
        if z not in split.test():
            raise AssertionError(f"slice {z} was trained on")
        Image.fromarray(clean(head, z).image).save(directory / f"slice_z{z:03d}.png", optimize=True)


def _dialogues(head: Head) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for z, rounds in DIALOGUES:
        area = areas(clean(head, z).labels)
        for _, _, target in rounds:
            if area[index(target)] < ASKABLE:
                raise AssertionError(f"{target} is hardly visible on slice {z}")
        listed = [{"question": text, "refer_to": refer_to, "target": target} for text, refer_to, target in rounds]
        found.append({"image": f"slice_z{z:03d}.png", "rounds": listed})
    return found
