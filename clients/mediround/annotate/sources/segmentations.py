"""DICOM SEG objects of a source, by the images that they are about; needs the extra ``dicom``.

Knows which segment of which object is an image's mask of a structure. Does not know where objects are found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mediround.annotate.errors import ItemError
from mediround.annotate.items import GivenReference, Question
from mediround.annotate.sorting import Lists
from mediround.annotate.sources.annotations import about_masks, referred, same_structure
from mediround.annotate.sources.dicom_files import Frame, is_segmentation
from mediround.annotate.sources.examined import ExaminedFile, examined, uri_of
from mediround.annotate.sources.omissions import Omissions
from mediround.dicom import DicomError, StoredSegmentation, read_segmentation
from mediround.dicom.source import DicomSource
from mediround.errors import InvalidArgument

_HELD = 4
"""Objects that are held parsed: an image's neighbours have the same."""
MOST_LOOKED_AT = 1000
"""Objects, the latest, in which an image's mask of a structure is looked for."""


@dataclass(frozen=True, slots=True)
class FoundSegmentation:
    """One object.

    Attributes:
        uri: where it lies.
        sha256: of the file, hex; of an archive's instance, of its SOP Instance UID.
        stored: its segments and masks.
        rank: the higher, the later it was written.
    """

    uri: str
    sha256: str
    stored: StoredSegmentation
    rank: bytes


def found_segmentation(source: DicomSource, uri: str, sha256: str) -> FoundSegmentation:
    """Read an object. Raises DicomError, InvalidArgument, OSError."""
    stored = read_segmentation(source)
    return FoundSegmentation(uri, sha256, stored, f"{stored.written} {uri}".encode("utf-8", "surrogatepass"))


def mask_in(
    found: Iterable[FoundSegmentation], question: Question, header: Any, frame: int, omissions: Omissions
) -> GivenReference | None:
    """The latest object's segment of a question's structure that has a mask on an image's frame; None: of none.

    Args:
        found: the latest first; read as far as needed.
    """
    for each in found:
        try:
            for segment in each.stored.segments:
                if same_structure(segment.label, question) and (
                    each.stored.mask(segment.number, header, frame) is not None
                ):
                    return GivenReference(each.uri, each.sha256, segment.label)
        except (DicomError, InvalidArgument, OSError):
            omissions.add("bad_segmentation", each.uri)
    return None


class TreeSegmentations:
    """Of a folder's files, all of which are added before the first image comes."""

    def __init__(self, questions: tuple[Question, ...], held: Lists, omissions: Omissions) -> None:
        self._questions, self._held, self._omissions = questions, held, omissions
        self._opened = lru_cache(_HELD)(_opened)

    def add(self, path: Path) -> None:
        """Take up a file; one that is no SEG is left alone."""
        if not is_segmentation(path):
            return
        try:
            file = examined(path)
            found = found_segmentation(path, file.uri, file.sha256)
        except (ItemError, DicomError, InvalidArgument, OSError):
            self._omissions.add("bad_segmentation", uri_of(path))
            return
        place = json.dumps((str(path), file.uri, file.sha256))
        for question in referred(self._questions):
            if any(same_structure(each.label, question) for each in found.stored.segments):
                for name in {*found.stored.images, found.stored.frame_of_reference} - {""}:
                    self._held.add(f"{question.name} {name}", place, found.rank)

    def questions(self, file: ExaminedFile, frame: Frame | None) -> tuple[Question, ...]:
        """See ``Annotations``."""
        if frame is None:
            return self._questions
        return about_masks(self._questions, lambda question: self._mask(question, file, frame))

    def _mask(self, question: Question, file: ExaminedFile, frame: Frame) -> GivenReference | None:
        reference = str(frame.header.get("FrameOfReferenceUID") or "")
        names = f"{question.name} {frame.instance}", f"{question.name} {reference}"
        places = self._held.of(names, MOST_LOOKED_AT + 1)
        opened = map(self._opened, places[:MOST_LOOKED_AT])  # one by one, as far as they are needed
        found = (each for each in opened if each is not None)
        mask = mask_in(found, question, frame.header, frame.frame or 1, self._omissions)
        if mask is None and len(places) > MOST_LOOKED_AT:
            self._omissions.add("segmentations_left", file.uri)
        return mask


def _opened(place: str) -> FoundSegmentation | None:
    path, uri, sha256 = json.loads(place)
    try:
        return found_segmentation(Path(path), uri, sha256)
    except (DicomError, InvalidArgument, OSError):  # it was read before: the file has changed since
        return None
