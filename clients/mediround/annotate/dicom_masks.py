"""A segment of a DICOM SEG as the mask of one frame; needs the extra ``dicom``.

Knows how a segment is found by its label. Does not know where objects lie.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mediround.annotate.errors import ItemError
from mediround.dicom import DicomError, StoredSegmentation, read_segmentation
from mediround.dicom.aspect import grid
from mediround.dicom.source import opened
from mediround.errors import InvalidArgument


def segmentation_of(content: Any) -> StoredSegmentation:
    """A SEG object, as ``mediround.dicom`` takes it. Raises ItemError."""
    try:
        return read_segmentation(content)
    except DicomError as error:
        raise _bad(error) from error


def mask_of(segmentation: StoredSegmentation, label: str, image: Any, frame: int | None) -> npt.NDArray[np.bool_]:
    """bool (H, W) of the frame as it is sent, whose pixels are square; segments of one label are one mask.

    Args:
        image: the object, as ``mediround.dicom`` takes it.

    Raises:
        ItemError: an object cannot be read, or has no such segment on the frame.
    """
    try:
        header = opened(image).header
        numbers = [one.number for one in segmentation.segments if one.label.casefold() == label.casefold()]
        masks = [segmentation.mask(number, header, frame or 1) for number in numbers]
    except (DicomError, InvalidArgument) as error:
        raise _bad(error) from error
    found = [mask for mask in masks if mask is not None]
    if not found:
        raise ItemError("NO_REFERENCE", "the SEG object has no such segment on the frame")
    mask: npt.NDArray[np.bool_] = np.logical_or.reduce(found)
    return grid(header, (frame or 1) - 1, *mask.shape).from_stored(mask)


def _bad(error: Exception) -> ItemError:
    return ItemError("BAD_MASK", f"the SEG object cannot be used ({type(error).__name__})")
