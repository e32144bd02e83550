"""Series made up for the check, axial and sagittal, and the masks that are written about them.

Knows DICOM's geometry. The structure is a letter that no turn or reflection maps onto itself, and it moves from
frame to frame: one that is drawn elsewhere, mirrored, or a frame late, shows. Does not know viewers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from mediround.dicom.results import Provenance, Segment, write_seg

Bits = npt.NDArray[np.bool_]

ROWS, COLUMNS, FRAMES = 96, 128, 6
ORIENTATIONS = {"axial": ([1, 0, 0], [0, 1, 0]), "sagittal": ([0, 1, 0], [0, 0, -1])}
"""Directions of a row and of a column, in the patient's coordinates (PS3.3 C.7.6.2)."""
SPACING_MM, BETWEEN_MM = (0.8, 1.25), 3.0
"""Between rows and between columns; between frames."""
_ORIGIN = np.array([-60.0, -50.0, -10.0])
_PATIENT = {"PatientName": "Made^Up", "PatientID": "made-up", "PatientBirthDate": "", "PatientSex": "O"}
_STUDY = {"StudyDate": "20260101", "StudyTime": "120000", "AccessionNumber": "", "StudyID": "1"}
_EMPTY = dict.fromkeys(("ReferringPhysicianName", "Manufacturer", "PositionReferenceIndicator"), "")


@dataclass(frozen=True, slots=True)
class MadeUpSeries:
    """A series, the mask of each of its objects, and the SEG that holds these."""

    name: str
    objects: tuple[Dataset, ...]
    masks: tuple[Bits, ...]
    """bool (Rows, Columns)"""
    segmentation: Dataset


def made_up_series(name: str) -> MadeUpSeries:
    """One of ``ORIENTATIONS``, of MR images, in a study of its own."""
    row, column = (np.array(each, float) for each in ORIENTATIONS[name])
    common: dict[str, object] = {
        **_PATIENT,
        **_STUDY,
        **_EMPTY,
        "PatientPosition": "HFS",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "SeriesNumber": 1,
        "SeriesDescription": name,
        "ImageOrientationPatient": [*row, *column],
    }
    masks = tuple(letter(frame) for frame in range(FRAMES))
    step = np.cross(row, column) * BETWEEN_MM
    objects = tuple(
        _image(mask, frame, common | {"ImagePositionPatient": list(_ORIGIN + frame * step)})
        for frame, mask in enumerate(masks)
    )
    found = {(str(each.SOPInstanceUID), 1): mask for each, mask in zip(objects, masks, strict=True)}
    provenance = Provenance(f"ohif-{name}", "made-up", "0", "0" * 64)
    [segmentation] = write_seg(objects, [Segment("letter F", found, 0, 1.0)], provenance)
    return MadeUpSeries(name, objects, masks, segmentation)


def letter(frame: int) -> Bits:
    """An F, further to the right with every frame; bool (Rows, Columns)."""
    mask = np.zeros((ROWS, COLUMNS), np.bool_)
    left = 20 + 4 * frame
    mask[10:70, left : left + 14] = mask[10:22, left : left + 50] = mask[36:46, left : left + 30] = True
    return mask


def _image(mask: Bits, frame: int, attributes: dict[str, object]) -> Dataset:
    """The letter, somewhat brighter than noise."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = MRImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    own = {
        "Modality": "MR",
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        "ScanningSequence": "RM",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "InstanceNumber": frame + 1,
        "PixelSpacing": list(SPACING_MM),
        "SliceThickness": BETWEEN_MM,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": ROWS,
        "Columns": COLUMNS,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": 500,
        "WindowWidth": 1000,
    }
    for keyword, value in (attributes | own).items():
        setattr(made, keyword, value)
    noise = np.random.default_rng(frame).integers(100, 300, mask.shape)
    made.add_new("PixelData", "OW", (noise + 250 * mask).astype("<u2").tobytes())
    return made
