"""Annotations that an archive has already, as what a template's questions are about.

Knows how a question gets its mask, and by which names. Does not know where masks lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from mediround.annotate.items import GivenReference, Question
from mediround.annotate.sources.dicom_files import Frame
from mediround.annotate.sources.examined import ExaminedFile

_ALIKE = str.maketrans("_ ", "--")


class Annotations(Protocol):
    """Of a source, each of whose images is asked one dialogue."""

    def questions(self, file: ExaminedFile, frame: Frame | None) -> tuple[Question, ...]:
        """The dialogue of an image; ``frame``: of a DICOM object. Raises ItemError: a mask cannot be read."""
        ...


class NoAnnotations:
    """Questions stay as they are."""

    def __init__(self, questions: tuple[Question, ...]) -> None:
        self._questions = questions

    def questions(self, file: ExaminedFile, frame: Frame | None) -> tuple[Question, ...]:  # noqa: ARG002  # as above
        return self._questions


def referred(questions: Sequence[Question]) -> list[Question]:
    """Those whose masks others are about."""
    return [
        questions[index] for index in sorted({each.refer_to for each in questions if each.refer_to is not None})
    ]


def about_masks(
    questions: tuple[Question, ...], mask_of: Callable[[Question], GivenReference | None]
) -> tuple[Question, ...]:
    """Questions about an earlier one's mask, about the archive's in its place where it has one."""
    masks = {each.name: mask_of(each) for each in referred(questions)}
    return tuple(
        each
        if each.refer_to is None or (mask := masks[questions[each.refer_to].name]) is None
        else replace(each, refer_to=None, reference=mask)
        for each in questions
    )


def same_structure(words: str, question: Question) -> bool:
    """Whether words name a question's structure: its name or label, in any case, with spaces, hyphens or _."""
    return _alike(words) in {_alike(question.name), _alike(question.label)}


def _alike(words: str) -> str:
    return words.strip().casefold().translate(_ALIKE)
