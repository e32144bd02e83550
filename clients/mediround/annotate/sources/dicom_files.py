"""Frames of a DICOM file that hold an image; needs the extra ``dicom``.

Knows what makes an object an image. Does not know dialogues.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mediround.annotate.errors import ItemError, SourceError
from mediround.annotate.sources.examined import HEAD_BYTES, content_of

SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
"""Segmentation Storage, Label Map Segmentation Storage."""
_MOST_FRAMES = 100_000
_META_BYTES = 1 << 10
"""Within which a Part 10 file says its SOP class, the second of its elements."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of an object.

    Attributes:
        frame: from 1; None: the object has one.
        study: Study Instance UID.
        series: Series Instance UID.
        instance: SOP Instance UID.
        header: the object's, or what is known of it; a pydicom data set.
    """

    frame: int | None
    study: str
    series: str
    instance: str
    header: Any = field(repr=False)


@contextmanager
def extra_needed() -> Iterator[None]:
    """Raises SourceError where the block needs the extra, and it is not installed."""
    try:
        yield
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        words = f"DICOM files need {package}: in the repository, pip install './clients[annotate,dicom]'"
        raise SourceError(words) from missing


def frames_of(path: Path | bytes, chosen: int | None) -> Iterator[Frame]:
    """The frames to ask about, all where none is chosen; none of an object that is no image.

    Raises:
        ItemError: the object cannot be read, or has no such frame.
        SourceError: the extra is not installed.
    """
    with extra_needed():
        from mediround.dicom.errors import DicomError  # noqa: PLC0415  # its extra need not be installed
        from mediround.dicom.source import opened  # noqa: PLC0415  # as above
    try:
        source = opened(path)
    except (DicomError, OSError) as error:
        raise ItemError("BAD_DICOM", f"the object cannot be read ({type(error).__name__})") from error
    header = source.header
    if source.pixels is None or str(header.get("SOPClassUID", "")) in SEGMENTATIONS:
        return
    count = _count(header.get("NumberOfFrames"))
    if chosen is not None and chosen > count:
        raise ItemError("BAD_FRAME", f"frame must be at most {count}, which the object has")
    uids = (str(header.get(f"{name}InstanceUID", "") or "") for name in ("Study", "Series", "SOP"))
    study, series, instance = uids
    for number in range(1, count + 1) if chosen is None else (chosen,):
        yield Frame(number if count > 1 else None, study, series, instance, header)


def is_segmentation(path: Path) -> bool:
    """Whether a file says that it is a SEG; its beginning is read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_META_BYTES)
    except OSError:
        return False
    return content_of(head[:HEAD_BYTES]) == "dicom" and any(each.encode() in head for each in SEGMENTATIONS)


def _count(value: object) -> int:
    try:
        found = int(str(value)) if value is not None else 1
    except ValueError:
        raise ItemError("BAD_DICOM", "Number of Frames must be a number") from None
    if not 1 <= found <= _MOST_FRAMES:
        raise ItemError("BAD_DICOM", f"Number of Frames must be from 1 to {_MOST_FRAMES}")
    return found
