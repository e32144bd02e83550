"""The committed slab as an MR series, with the spacing and position that it has in its head.

Knows the pictures (slices/README.md) and the attributes of MR images. Does not know what is asked.
"""

from __future__ import annotations

import uuid
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

SLICES = Path(__file__).parent / "slices"
_NAMESPACE = uuid.UUID("0f6f1e9e-2f6d-5d53-9d0b-64656d6f6d72")
_LEFT, _BACK, _FIRST = -108, -91, -71
"""Millimetres, of the first column, of the first row, and of slice 0."""


def write_series(folder: Path) -> list[Path]:
    """Eight files, from the lowest slice to the highest."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for picture in sorted(SLICES.glob("slice_z*.png")):
        z = int(picture.stem.removeprefix("slice_z"))
        stream = BytesIO()
        pydicom.dcmwrite(stream, _image(z, np.asarray(Image.open(picture), np.uint16)), enforce_file_format=True)
        written.append(folder / f"{picture.stem}.dcm")
        written[-1].write_bytes(stream.getvalue())
    return written


def _image(z: int, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]) -> Dataset:
    """One slice, pixels (Rows, Columns) of 8 bits in 16, as MR images have them."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = MRImageStorage, _uid(f"slice {z}")
    made.StudyInstanceUID, made.SeriesInstanceUID = _uid("study"), _uid("series")
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = _uid("frame of reference"), ""
    made.PatientName, made.PatientID = "Colin27^Atlas", "COLIN27"
    made.PatientBirthDate, made.PatientSex, made.PatientPosition = "", "M", "HFS"
    made.StudyDate, made.StudyTime = "19980101", "120000"
    made.StudyID, made.AccessionNumber, made.ReferringPhysicianName = "1", "", ""
    made.Modality, made.SeriesNumber, made.InstanceNumber = "MR", 1, z
    made.SeriesDescription, made.BodyPartExamined = "T1, slab of the atlas head", "HEAD"
    made.Manufacturer = "mricron-data"
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.ScanningSequence, made.SequenceVariant, made.ScanOptions, made.MRAcquisitionType = "GR", "SP", "", "3D"
    made.EchoTime, made.RepetitionTime, made.EchoTrainLength = None, None, None
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.ImagePositionPatient = [_LEFT, _BACK, z + _FIRST]
    made.PixelSpacing, made.SliceThickness, made.SpacingBetweenSlices = [1, 1], 1, 1
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.WindowCenter, made.WindowWidth = 128, 256
    made.PixelData = pixels.astype("<u2").tobytes()
    return made


def _uid(name: str) -> UID:
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, name).int}")
