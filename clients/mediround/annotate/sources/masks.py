"""Mask files that lie beside images, named for them: ``7-left-thalamus.png`` of ``7.png``.

Knows how they are named. Does not know what they show.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import ENAMETOOLONG
from pathlib import Path

from mediround.annotate.errors import ItemError
from mediround.annotate.items import GivenReference, Question
from mediround.annotate.sources.annotations import about_masks, referred
from mediround.annotate.sources.dicom_files import Frame
from mediround.annotate.sources.examined import ExaminedFile, examined

FOLDER = "masks"
"""Beside the images, where masks may lie, too."""


class MaskFiles:
    """Of a folder of images."""

    def __init__(self, questions: tuple[Question, ...]) -> None:
        self._questions = questions
        self._endings = tuple(ending for each in referred(questions) for ending in _endings(each))

    def questions(self, file: ExaminedFile, frame: Frame | None) -> tuple[Question, ...]:
        """See ``Annotations``: of an image that has one frame."""
        if not isinstance(file.readable, Path) or (frame is not None and frame.frame is not None):
            return self._questions
        image = file.readable
        return about_masks(self._questions, lambda question: _mask(image, question))

    def is_mask(self, path: Path) -> bool:
        """Whether a file is named as a mask, and is no image therefore."""
        return path.name.endswith(self._endings) if self._endings else False


def _mask(image: Path, question: Question) -> GivenReference | None:
    for path in _places(image, question):
        try:
            if path.is_file():
                file = examined(path)
                return GivenReference(file.uri, file.sha256)
        except OSError as error:
            if error.errno != ENAMETOOLONG:  # no file has such a name
                words = f"the mask of {question.name} cannot be looked for ({error.strerror})"
                raise ItemError("NO_REFERENCE", words) from error
        except ItemError as error:
            words = f"the mask of {question.name} cannot be read: {error}"
            raise ItemError("NO_REFERENCE", words) from error
    return None


def _places(image: Path, question: Question) -> Iterator[Path]:
    for folder in (image.parent, image.parent / FOLDER):
        for stem in dict.fromkeys((image.stem, image.name)):  # UIDs as names have full stops, and no suffix
            yield from (folder / f"{stem}{ending}" for ending in _endings(question))


def _endings(question: Question) -> tuple[str, ...]:
    names = dict.fromkeys((question.name, question.name.replace("-", "_")))
    return tuple(f"{mark}{name}.png" for name in names for mark in "-_")
