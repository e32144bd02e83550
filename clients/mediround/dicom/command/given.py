"""Masks of a SEG object as those of a template's questions, on the frames of a stack.

Knows which segment is which question: by their labels. Does not know how masks are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset

from mediround.dicom.segmentation import read_segmentation
from mediround.dicom.series.stack import Stack, StackFrame
from mediround.dicom.source import opened
from mediround.dicom.volume.answers import Bits
from mediround.errors import FieldViolation, InvalidArgument
from mediround.templates import Template


def given_masks(path: Path, stack: Stack, template: Template) -> dict[int, dict[str, Bits]]:
    """By the frame's index and the question's name; none where the object has nothing on the stack.

    Raises:
        InvalidArgument: no segment has the label of a question.
        DicomError, OSError: an object cannot be read.
    """
    stored = read_segmentation(path)
    names = {question.label.casefold(): question.name for question in template.questions}
    segments = {
        one.number: names[one.label.casefold()] for one in stored.segments if one.label.casefold() in names
    }
    if not segments:
        wanted = ", ".join(question.label for question in template.questions)
        words = f"must have a segment that is labelled as a question is: {wanted}"
        raise InvalidArgument(f"--given: {words}", (FieldViolation("--given", words),))
    found: dict[int, dict[str, Bits]] = {}
    for index, (frame, header) in enumerate(_headers(stack)):
        for number, name in segments.items():
            mask = stored.mask(number, header, frame.number)
            if mask is not None:
                found.setdefault(index, {})[name] = mask
    return found


def _headers(stack: Stack) -> Iterator[tuple[StackFrame, Dataset]]:
    """Each frame with its object's header, which is read once for frames that stand together."""
    source, header = object(), Dataset()
    for frame in stack.frames:
        if frame.source is not source:
            source, header = frame.source, opened(frame.source).header
        yield frame, header
