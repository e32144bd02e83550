"""Series of small slices, as data sets and as files. Knows what a slice needs to have a place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

AXIAL = [1, 0, 0, 0, 1, 0]
CORONAL = [1, 0, 0, 0, 0, -1]
SIDE = 16
WHOLE = {
    "PatientName": "Doe^Jane",
    "PatientID": "X1",
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyID": "",
    "StudyDate": "20260101",
    "StudyTime": "120000",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "SeriesNumber": 1,
    "Manufacturer": "",
    "SliceThickness": 1,
    "PositionReferenceIndicator": "",
}
"""What a segmentation takes over from its source."""


def mr(z: float, number: int = 1, **attributes: object) -> Dataset:
    """An MR slice at this height, mm. An attribute of None is left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.set_pixel_data(np.full((SIDE, SIDE), number % 256, np.uint8), "MONOCHROME2", 8)
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, f"1.2.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.3", "1.4", "1.5"
    dataset.Modality, dataset.BodyPartExamined, dataset.InstanceNumber = "MR", "BRAIN", number
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = AXIAL, [0, 0, z]
    dataset.PixelSpacing, dataset.ImageType = [1, 1], ["ORIGINAL", "PRIMARY", "M"]
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def item(**attributes: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def enhanced(places: list[tuple[float, int]]) -> Dataset:
    """An enhanced MR object with a frame for each height, mm, and time."""
    dataset = mr(0, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None)
    dataset.SOPClassUID, dataset.NumberOfFrames = EnhancedMRImageStorage, len(places)
    dataset.PixelData = bytes(SIDE * SIDE * len(places))
    dataset.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1])],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])],
            FrameContentSequence=[item(TemporalPositionIndex=time)],
        )
        for z, time in places
    ]
    return dataset


def saved(folder: Path, *datasets: Dataset) -> Path:
    """The data sets as files, in their order, of names that say nothing of it."""
    folder.mkdir(exist_ok=True)
    for number, dataset in enumerate(datasets):
        pydicom.dcmwrite(folder / f"{(number * 7919) % 10007:05}", dataset, enforce_file_format=True)
    return folder
