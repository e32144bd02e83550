"""Label maps in the form that nnU-Net trains on: imagesTr, labelsTr and dataset.json (nnU-Net v2, 2D PNG).

Knows the form. A case is an image of which every dialogue is finished; its picture is the 8 bits that the model
saw, as RGB. Where masks overlap, the later round's is kept. Does not know where images lie.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from mediround import rle
from mediround._dicom_entry import prepared_frame
from mediround.annotate.errors import AnnotateError, ItemError
from mediround.annotate.loading import load
from mediround.annotate.outputs.grouping import Image, images
from mediround.annotate.outputs.kept import Export
from mediround.annotate.results import Result
from mediround.errors import MediRoundError
from mediround.pictures import MALFORMED

MOST_LABELS = 255
"""That a byte holds."""


@dataclass(slots=True)
class LabelMaps:
    """What was written.

    Attributes:
        cases: written.
        left_out: images that are not finished, cannot be read and have no picture of an earlier export, or have
            masks of another size.
        values: each label's value in the maps; what a mask labelled ``background`` shows is background.
    """

    cases: int = 0
    left_out: int = 0
    values: dict[str, int] = field(default_factory=lambda: {"background": 0})


def write_label_maps(export: Export, found: Iterable[Result]) -> LabelMaps:
    """Write a data set. Raises JobError; AnnotateError: there are more labels than a map can hold."""
    written, folder = LabelMaps(), export.place
    for image in images(export.of(found)):
        try:
            if not image.complete:
                raise ItemError("NOT_FINISHED", "its dialogues must all be finished")
            path = folder / "imagesTr" / f"{image.name}_0000.png"
            picture = _picture(image, export, path)
            labels = _labels(image, picture.shape[:2], written.values)
        except ItemError:
            written.left_out += 1
            continue
        export.keep(path, _png(picture), image.item_ids)
        export.keep(folder / "labelsTr" / f"{image.name}.png", _png(labels), image.item_ids)
        written.cases += 1
    export.keep(folder / "dataset.json", _described(written))
    return written


def _described(written: LabelMaps) -> bytes:
    said = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": written.values,
        "numTraining": written.cases,
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    return (json.dumps(said, indent=1) + "\n").encode()


def _labels(image: Image, size: tuple[int, ...], values: dict[str, int]) -> npt.NDArray[np.uint8]:
    """uint8 (H, W): a label's value where its mask is set."""
    made = np.zeros(size, np.uint8)
    for row in image.rows:
        value = values.setdefault(row.label, len(values))
        if value > MOST_LABELS:
            raise AnnotateError(f"label maps hold at most {MOST_LABELS} labels: give questions the same labels")
        if row.counts is not None:
            if (row.height, row.width) != size:
                raise ItemError("SOURCE_CHANGED", "a mask is of another size than its image")
            made[rle.decode(row.counts.encode(), row.height, row.width)] = value
    return made


def _picture(image: Image, export: Export, path: Path) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB; by an earlier export, whose files are named by their images' content, where the image
    cannot be read any more. Raises ItemError.
    """
    try:
        return _read(image)
    except ItemError:
        earlier = export.earlier(path)
        if earlier is None:
            raise
        return _decoded(earlier)


def _read(image: Image) -> npt.NDArray[np.uint8]:
    loaded = load(image.item)
    try:
        if image.item.kind == "picture":
            if not isinstance(loaded.image, bytes):
                raise ItemError("UNSUPPORTED", "a picture must be the bytes of a file")
            return _decoded(loaded.image)
        grey, _ = prepared_frame(loaded.image, loaded.frame, loaded.window)
    except (*MALFORMED, MediRoundError) as error:
        raise ItemError("UNREADABLE", f"the image cannot be decoded ({type(error).__name__})") from error
    return grey if grey.ndim == 3 else np.repeat(grey[:, :, None], 3, axis=2)


def _decoded(content: bytes) -> npt.NDArray[np.uint8]:
    with Pillow.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    held = io.BytesIO()
    Pillow.fromarray(pixels).save(held, "PNG")
    return held.getvalue()
