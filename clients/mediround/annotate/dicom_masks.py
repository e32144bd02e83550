"""A segment of a DICOM SEG as the mask of one frame; needs the extra ``dicom``.

Knows how a segment is found by its label. Does not know where objects lie.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mediround.annotate.errors import ItemError
from mediround.dicom import DicomError, read_segmentation
from mediround.dicom.aspect import grid
from mediround.dicom.source import opened
from mediround.errors import InvalidArgument


def mask_of(segmentation: Any, label: str, image: Any, frame: int | None) -> npt.NDArray[np.bool_]:
    """bool (H, W) of the frame as it is sent, whose pixels are square; segments of one label are one mask.

    Args:
        segmentation: the SEG object, as ``mediround.dicom`` takes it.
        image: the object, the same.

    Raises:
        ItemError: an object cannot be read, or has no such segment on the frame.
    """
    try:
        stored, header = read_segmentation(segmentation), opened(image).header
        numbers = [one.number for one in stored.segments if one.label.casefold() == label.casefold()]
        masks = [stored.mask(number, header, frame or 1) for number in numbers]
    except (DicomError, InvalidArgument) as error:
        raise ItemError("BAD_MASK", f"the SEG object cannot be used ({type(error).__name__})") from error
    found = [mask for mask in masks if mask is not None]
    if not found:
        raise ItemError("NO_REFERENCE", "the SEG object has no such segment on the frame")
    mask: npt.NDArray[np.bool_] = np.logical_or.reduce(found)
    return grid(header, (frame or 1) - 1, *mask.shape).from_stored(mask)
