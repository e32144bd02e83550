"""A head that nothing was trained on: MNI152 with the Harvard-Oxford labels.

Knows which of that atlas's structures make which of ours, by the same rules as the training head's where these
apply. An average of 152 heads in the same pose, without a skull: another brain, but no patient. Its labels are of
another protocol, so a Dice is read beside the agreement of the two label sets. Measured, never trained on.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from scipy import ndimage

from training.evaluate import Evaluation
from training.sources import Sources, Unseen
from training.split import FIRST, LAST
from training.targets import SIDES, Head, index
from training.views import Planes, View, clean

SLICES = tuple(range(FIRST, LAST + 1, 4))
LEAST_PERCENT = 25
LOBE_REACH = 10.0
HEMISPHERE_FROM = 80
"""Slice from which brain on one side is hemisphere: below lie cerebellum and stem, which the atlas leaves out."""

_LOBES = {
    "frontal lobe": (
        "Frontal_Pole", "Superior_Frontal", "Middle_Frontal", "Inferior_Frontal", "Precentral", "Frontal_Medial",
        "Juxtapositional", "Frontal_Orbital", "Paracingulate", "Frontal_Operculum",
    ),
    "parietal lobe": ("Postcentral", "Superior_Parietal", "Supramarginal", "Angular", "Precuneous"),
    "temporal lobe": (
        "Temporal_Pole", "Superior_Temporal", "Middle_Temporal", "Inferior_Temporal", "Temporal_Fusiform",
        "Temporal_Occipital_Fusiform", "Planum_Polare", "Heschl", "Planum_Temporale",
    ),
    "occipital lobe": (
        "Lateral_Occipital", "Intracalcarine", "Cuneal", "Lingual", "Occipital_Fusiform", "Supracalcarine",
        "Occipital_Pole",
    ),
}  # fmt: skip
_DEEP = {
    "thalamus": ("Thalamus",),
    "caudate nucleus": ("Caudate",),
    "lentiform nucleus": ("Putamen", "Pallidum"),
    "hippocampus": ("Hippocampus", "Amygdala"),
    "insula": ("Insular",),
    "cingulate gyrus": ("Cingulate",),
    "lateral ventricle": ("Lateral_Ventric",),
}


def load_head(source: Unseen, like: Sources) -> Head:
    """The unseen head on the training head's grid."""
    grid = nibabel.load(like.templates / "ch2.nii.gz")
    space = (grid.shape, grid.affine)
    image = np.asarray(resample_from_to(nibabel.load(source.template), space, order=1).dataobj)
    maps = nibabel.load(source.atlas)
    percent = np.asarray(maps.dataobj)
    parcels = np.where(percent.max(-1) >= LEAST_PERCENT, percent.argmax(-1) + 1, 0).astype(np.uint8)
    flat = nibabel.Nifti1Image(parcels, maps.affine)
    labels = np.asarray(resample_from_to(flat, space, order=0).dataobj, np.uint8)
    with source.names.open(newline="") as listed:
        names = [""] + [row["name"] for row in csv.DictReader(listed)]
    scaled = np.clip(np.rint(image * (255.0 / image.max())), 0, 255).astype(np.uint8)
    return Head(scaled, scaled, _structures(scaled > 0, labels, names))


def _structures(brain: NDArray[np.bool_], parcels: NDArray[np.uint8], names: Sequence[str]) -> Planes:
    cortex = [number for number, name in enumerate(names) if _any(name, *_LOBES.values())]
    distance, at = ndimage.distance_transform_edt(~np.isin(parcels, cortex), return_indices=True)
    nearest = np.where(distance <= LOBE_REACH, parcels[tuple(at)], 0)
    planes = np.zeros(parcels.shape, np.uint32)
    stem = parcels == names.index("Brain-Stem")
    free = brain & ~stem & ~np.isin(parcels, _numbers(names, "", _DEEP["lateral ventricle"]))
    middle = parcels.shape[0] // 2
    columns, heights = np.ogrid[: parcels.shape[0], : parcels.shape[2]]
    for side in SIDES:
        for name, parts in _LOBES.items():
            chosen = _numbers(names, side.capitalize(), parts)
            planes[np.isin(nearest, chosen) & free] |= np.uint32(1 << index(f"{side} {name}"))
        for name, parts in _DEEP.items():
            chosen = _numbers(names, side.capitalize(), parts)
            planes[np.isin(parcels, chosen) & brain] |= np.uint32(1 << index(f"{side} {name}"))
        here = (columns < middle) if side == "left" else (columns >= middle)
        half = brain & here[:, :, None] & (heights >= HEMISPHERE_FROM)[None]
        planes[half] |= np.uint32(1 << index(f"{side} cerebral hemisphere"))
    planes[stem & brain] |= np.uint32(1 << index("brain stem"))
    planes[brain] |= np.uint32(1 << index("brain"))
    return planes


def _numbers(names: Sequence[str], side: str, parts: Sequence[str]) -> list[int]:
    return [number for number, name in enumerate(names) if name.startswith(side) and _any(name, parts)]


def _any(name: str, *groups: Sequence[str]) -> bool:
    own = name.partition("_")[2]
    return any(own.startswith(part) for group in groups for part in group)


@dataclass(frozen=True, slots=True)
class UnseenHead:
    """What is measured on it."""

    evaluation: Evaluation
    """On the unseen head; no training slice is near."""
    trained: Head

    def run(self) -> dict[str, object]:
        """Dialogues, and every structure beside the training head's labels at the same place."""
        player = self.evaluation.player
        scenes = [player.scene(clean(self.evaluation.head, z)) for z in SLICES]
        dialogues, _ = self.evaluation.dialogues(scenes)
        return {
            "slices": list(SLICES),
            "dialogues": dialogues,
            "every_structure_by_class_token": self.evaluation.structures(scenes, self._same_place),
        }

    def _same_place(self, view: View) -> Planes:
        return clean(self.trained, view.z).labels
