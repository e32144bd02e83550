"""What an archive gives back: stored by STOW, fetched by WADO, compared with what was sent.

Knows DICOMweb and highdicom's reader of segmentations. Does not know who found the masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

import highdicom as hd
import numpy as np
import numpy.typing as npt
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from mediround.dicom.results import Segment, encode

Bits = npt.NDArray[np.bool_]


def stored(archive: DICOMwebClient, objects: Sequence[Dataset]) -> bool:
    """Whether the archive took every object."""
    reply = archive.store_instances(list(objects))
    taken = {item.ReferencedSOPInstanceUID for item in reply.get("ReferencedSOPSequence") or []}
    return not reply.get("FailedSOPSequence") and taken == {one.SOPInstanceUID for one in objects}


def fetched(archive: DICOMwebClient, like: Dataset) -> Dataset:
    """The object as the archive has it."""
    return archive.retrieve_instance(like.StudyInstanceUID, like.SeriesInstanceUID, like.SOPInstanceUID)


def unequal_masks(seg: Dataset, segments: Sequence[Segment]) -> list[str]:
    """Labels of the structures whose masks are not those of the object, as highdicom reads it."""
    reader = hd.seg.segread(BytesIO(encode(seg)))
    found = [segment for segment in segments if segment.masks]
    return [
        segment.label
        for number, segment in enumerate(found, start=1)
        if not _equal(reader, number, {uid: mask for (uid, _), mask in segment.masks.items()})
    ]


def _equal(reader: hd.seg.Segmentation, number: int, masks: Mapping[str, Bits]) -> bool:
    uids = list(masks)
    pixels = reader.get_pixels_by_source_instance(uids, segment_numbers=[number])
    return all(np.array_equal(pixels[index, :, :, 0] > 0, masks[uid]) for index, uid in enumerate(uids))
