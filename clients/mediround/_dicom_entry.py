"""Where the core meets DICOM: objects are known by their prefix, and read by the extra ``mediround.dicom``.

Knows how a DICOM object is told from other images. Does not know DICOM: its package is looked up by its name when
an object comes, so that the core needs none of its libraries.
"""

from __future__ import annotations

import importlib
import sys
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mediround._records import PixelRecord
from mediround.errors import FailedPrecondition, FieldViolation, InvalidArgument
from mediround.window import WindowChoice

_PREFIX = slice(128, 132)
"""``DICM`` in a file (PS3.10)."""


def is_dicom(image: object) -> bool:
    """A pydicom data set, or bytes or a file with DICOM's prefix. Raises OSError where the path cannot be read."""
    match image:
        case bytes() | bytearray():
            return bytes(image[_PREFIX]) == b"DICM"
        case str() | PathLike():
            if not _is_file(image):
                return False  # a pipe is read once; what is no path is refused where it is read
            with Path(image).open("rb") as file:
                return file.read(_PREFIX.stop)[_PREFIX] == b"DICM"
        case _:
            pydicom = sys.modules.get("pydicom.dataset")
            return pydicom is not None and isinstance(image, pydicom.Dataset)


def _is_file(path: str | PathLike[str]) -> bool:
    try:
        return Path(path).is_file()
    except (TypeError, ValueError):
        return False


def prepared_frame(
    image: object, frame: int | None, window: WindowChoice
) -> tuple[npt.NDArray[np.uint8], PixelRecord]:
    """A frame as 8 bits, and what made it.

    Raises:
        FailedPrecondition: the extra is not installed.
        InvalidArgument: several frames, and none is named; or as ``mediround.dicom`` does.
        MediRoundError: it cannot be read.
    """
    try:
        dicom = importlib.import_module("mediround.dicom")
    except ModuleNotFoundError:
        words = "to read DICOM, its extra must be installed: in the repository, pip install './clients[dicom]'"
        raise FailedPrecondition(words) from None
    instance = dicom.read(image)
    if frame is None and instance.frames > 1:
        words = f"must say which of the {instance.frames} frames, from 1"
        raise InvalidArgument(f"frame: {words}", (FieldViolation("frame", words),))
    prepared = instance.frame(1 if frame is None else frame, window)
    return prepared.image, prepared.record
