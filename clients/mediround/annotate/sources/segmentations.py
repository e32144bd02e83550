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
from mediround.annotate.sources.annotations import about_masks, same_structure
from mediround.annotate.sources.dicom_files import Frame, is_segmentation
from mediround.annotate.sources.examined import ExaminedFile, examined, uri_of
from mediround.annotate.sources.omissions import Omissions
from mediround.dicom import DicomError, StoredSegmentation, read_segmentation
from mediround.errors import InvalidArgument

_HELD = 4
"""Objects that are held parsed: an image's neighbours have the same."""


@dataclass(frozen=True, slots=True)
class FoundSegmentation:
    """One object.

    Attributes:
        uri: where it lies.
        sha256: of the file, hex; of an archive's instance, of its SOP Instance UID.
        stored: its segments and masks.
    """

    uri: str
    sha256: str
    stored: StoredSegmentation


def mask_in(
    found: Iterable[FoundSegmentation], question: Question, header: Any, frame: int, omissions: Omissions
) -> GivenReference | None:
    """The latest object's segment of a question's structure that has a mask on an image's frame; None: of none."""
    for each in sorted(found, key=lambda one: (one.stored.written, one.uri), reverse=True):
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
            stored = read_segmentation(path)
        except (ItemError, DicomError, InvalidArgument, OSError):
            self._omissions.add("bad_segmentation", uri_of(path))
            return
        place = json.dumps((str(path), file.uri, file.sha256))
        for name in {*stored.images, stored.frame_of_reference} - {""}:
            self._held.add(name, place)

    def questions(self, file: ExaminedFile, frame: Frame | None) -> tuple[Question, ...]:  # noqa: ARG002  # as another
        """See ``Annotations``."""
        if frame is None:
            return self._questions
        names = (frame.instance, str(frame.header.get("FrameOfReferenceUID") or ""))
        places = dict.fromkeys(place for name in names if name for place in self._held.of(name))
        found = [each for each in map(self._opened, places) if each is not None]
        return about_masks(
            self._questions,
            lambda question: mask_in(found, question, frame.header, frame.frame or 1, self._omissions),
        )


def _opened(place: str) -> FoundSegmentation | None:
    path, uri, sha256 = json.loads(place)
    try:
        return FoundSegmentation(uri, sha256, read_segmentation(Path(path)))
    except (DicomError, InvalidArgument, OSError):  # it was read before: the file has changed since
        return None
