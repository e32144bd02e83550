"""DICOM SEG objects of a DICOMweb archive, study by study; needs the extras ``dicom`` and ``dicomweb``.

Knows which objects a study has. Does not know which of their segments an image's questions are about.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from mediround.annotate import dicomweb
from mediround.annotate.errors import ItemError
from mediround.annotate.items import Question
from mediround.annotate.sources.annotations import about_masks
from mediround.annotate.sources.dicom_files import Frame
from mediround.annotate.sources.omissions import Omissions
from mediround.annotate.sources.segmentations import FoundSegmentation, found_segmentation, mask_in
from mediround.dicom import DicomError
from mediround.errors import InvalidArgument


class ArchiveSegmentations:
    """Of an archive whose images come study by study: those of one study are held."""

    def __init__(self, base: str, questions: tuple[Question, ...], omissions: Omissions) -> None:
        self._base, self._questions, self._omissions = base, questions, omissions
        self._study, self._held = "", list[FoundSegmentation]()

    def questions(self, frame: Frame) -> tuple[Question, ...]:
        """The dialogue of an image. Raises SourceError: the archive does not answer."""
        if frame.study != self._study:
            self._held = sorted(self._found(frame.study), key=lambda one: one.rank, reverse=True)
            self._study = frame.study
        found = [each for each in self._held if frame.instance in each.stored.images]
        return about_masks(
            self._questions,
            lambda question: mask_in(found, question, frame.header, frame.frame or 1, self._omissions),
        )

    def _found(self, study: str) -> Iterator[FoundSegmentation]:
        for instance in dicomweb.segmentations(self._base, study):
            uri, uid = dicomweb.address(self._base, instance), dicomweb.value(instance, dicomweb.INSTANCE)
            try:
                yield found_segmentation(dicomweb.retrieve(uri), uri, sha256(uid.encode()).hexdigest())
            except (ItemError, DicomError, InvalidArgument):
                self._omissions.add("bad_segmentation", uri)
