"""Mask files that lie beside images, named for them: ``7-left-thalamus.png`` of ``7.png``.

Knows how they are named. Does not know what they show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import ENAMETOOLONG
from pathlib import Path, PurePosixPath

from mediround.annotate.errors import ItemError
from mediround.annotate.items import GivenReference, Question
from mediround.annotate.sources.annotations import about_masks
from mediround.annotate.sources.dicom_files import Frame
from mediround.annotate.sources.examined import ExaminedFile, Place, examined

FOLDER = "masks"
"""Beside the images, where masks may lie, too."""


def _is_file(place: Place) -> bool:
    return isinstance(place, Path) and place.is_file()


class MaskFiles:
    """Of a folder of images, or of an object store."""

    def __init__(self, questions: tuple[Question, ...], there: Callable[[Place], bool] = _is_file) -> None:
        """``there``: whether a file that is named as a mask exists. It may raise OSError."""
        self._questions, self._there = questions, there
        self._endings = tuple(ending for each in questions for ending in _endings(each))

    def questions(self, file: ExaminedFile, frame: Frame | None) -> tuple[Question, ...]:
        """See ``Annotations``: of an image that has one frame."""
        if frame is not None and frame.frame is not None:
            return self._questions
        image = file.readable if isinstance(file.readable, Path) else file.uri
        return about_masks(self._questions, lambda question: self._mask(image, question))

    def is_mask(self, place: Place) -> bool:
        """Whether a file is named as the mask of a question, even one that no other is about: it is no image."""
        return str(place).endswith(self._endings)

    def _mask(self, image: Place, question: Question) -> GivenReference | None:
        for place in _places(image, question):
            try:
                if self._there(place):
                    file = examined(place)
                    return GivenReference(file.uri, file.sha256)
            except OSError as error:
                if error.errno != ENAMETOOLONG:  # no file has such a name
                    words = f"the mask of {question.name} cannot be looked for ({error.strerror})"
                    raise ItemError("NO_REFERENCE", words) from error
            except ItemError as error:
                words = f"the mask of {question.name} cannot be read: {error}"
                raise ItemError("NO_REFERENCE", words) from error
        return None


def _places(image: Place, question: Question) -> Iterator[Place]:
    folder, _, name = image.rpartition("/") if isinstance(image, str) else ("", "", image.name)
    for within in ("", f"{FOLDER}/"):
        for mask in _names(name, question):
            yield f"{folder}/{within}{mask}" if isinstance(image, str) else image.parent / f"{within}{mask}"


def _names(image: str, question: Question) -> Iterator[str]:
    for stem in dict.fromkeys((PurePosixPath(image).stem, image)):  # UIDs have full stops, and no suffix
        yield from (f"{stem}{ending}" for ending in _endings(question))


def _endings(question: Question) -> tuple[str, ...]:
    names = dict.fromkeys((question.name, question.name.replace("-", "_")))
    return tuple(f"{mark}{name}.png" for name in names for mark in "-_")
