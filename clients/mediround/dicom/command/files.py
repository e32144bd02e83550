"""What ``mediround segment`` writes, in a folder of its own: SEG, SR, pictures, masks as PNG, and results as JSON.

Knows names of files, which hold numbers and the template's own words alone. Does not know how objects are made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from mediround._commands import RESULTS
from mediround._png import png
from mediround.dicom.command.record import StackRecord
from mediround.dicom.instance import LastRead
from mediround.dicom.results import Pictures, Provenance, encode, write_seg, write_sr
from mediround.dicom.series.stack import Stack
from mediround.dicom.source import opened
from mediround.dicom.volume.answers import FrameResult
from mediround.window import WindowChoice

KINDS = ("seg", "sr")


def write_masks(folder: Path, number: int, result: FrameResult) -> list[Path]:
    """A frame's masks as PNGs of its own pixels, white where they are set. Raises OSError."""
    found, below = [], folder / f"stack-{number:02}"
    for answer in result.answers:
        if answer.mask is not None:
            below.mkdir(exist_ok=True)
            found.append(below / f"frame-{result.index:04}-{answer.name}.png")
            found[-1].write_bytes(png(answer.mask))
    return found


def write_objects(folder: Path, record: StackRecord, provenance: Provenance, kinds: Sequence[str]) -> list[Path]:
    """DICOM objects of these kinds.

    Raises:
        InvalidArgument, DicomError: the series cannot have such an object.
        OSError: it cannot be written.
    """
    if not kinds:
        return []
    sources, segments, name = headers(record.stack), record.segments, f"stack-{record.number:02}"
    segmentations = write_seg(sources, segments, provenance)
    made = {"seg": segmentations}
    if "sr" in kinds:
        made["sr"] = [write_sr(sources, segments, provenance, segmentations)]
    return [path for kind in kinds for path in _saved(folder, f"{name}-{kind}", made[kind])]


def write_pictures(folder: Path, record: StackRecord, provenance: Provenance, window: WindowChoice) -> list[Path]:
    """A Secondary Capture of each frame that has a mask, by one frame after the other: a picture is large.

    Raises:
        InvalidArgument, DicomError: as ``write_objects``.
        OSError: it cannot be written.
    """
    found: list[Path] = []
    objects, pictures = LastRead(), None
    for index, place in enumerate(record.stack.frames):
        key = place.sop_instance_uid, place.number
        here = [
            replace(segment, masks={key: segment.masks[key]} if key in segment.masks else {})
            for segment in record.segments
        ]
        if not any(segment.masks for segment in here):
            continue
        instance = objects.instance(place.source)
        if pictures is None or pictures.header is not instance.header:
            pictures = Pictures([instance.header], provenance)
        picture = pictures.of(key, instance.frame(place.number, window), here, len(found) + 1)
        found.append(folder / f"stack-{record.number:02}-sc-{index:04}.dcm")
        found[-1].write_bytes(encode(picture))
    return found


def write_results(folder: Path, records: Sequence[StackRecord], said: dict[str, Any]) -> Path:
    """All that is known of each frame, as JSON. Raises OSError."""
    path = folder / RESULTS
    held = said | {"stacks": [record.to_dict() for record in records]}
    path.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    return path


def headers(stack: Stack) -> list[Dataset]:
    """Of the objects that a stack's frames are of, each once. Raises DicomError, OSError."""
    sources = {id(frame.source): frame.source for frame in stack.frames}
    return [opened(source).header for source in sources.values()]


def _saved(folder: Path, name: str, objects: Sequence[Dataset]) -> Iterator[Path]:
    for index, each in enumerate(objects, start=1):
        path = folder / (f"{name}.dcm" if len(objects) == 1 else f"{name}-{index:03}.dcm")
        path.write_bytes(encode(each))
        yield path
