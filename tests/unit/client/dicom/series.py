"""Series to write results about: headers with true geometry, and masks that are easy to know again.

Knows attributes. Does not know what is written.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    MRImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from mediround.dicom.results import FrameKey, Provenance

ROWS, COLUMNS = 24, 32
PROVENANCE = Provenance(
    "session-1", "mediround-lite", "0.4.0", "ab" * 32, "cd" * 32, {"window": "400/40", "language": "onnxruntime 1"}
)


def header(uid: str = "1.2.826.0.1.3", **attributes: object) -> Dataset:
    """One object of an MR series, without pixels. None takes an attribute out."""
    made = Dataset()
    plain: dict[str, object] = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": f"{uid}.1",
        "StudyInstanceUID": f"{uid}.8",
        "SeriesInstanceUID": f"{uid}.9",
        "FrameOfReferenceUID": f"{uid}.7",
        "PositionReferenceIndicator": "",
        "Modality": "MR",
        "Rows": ROWS,
        "Columns": COLUMNS,
        "ImagePositionPatient": [-10, -20, 30],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [2, 0.5],
        "SliceThickness": 3,
        "PatientID": "P1",
        "PatientName": "Doe^Jane",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "StudyDate": "20260102",
        "StudyTime": "030405",
        "AccessionNumber": "",
        "StudyID": "",
        "ReferringPhysicianName": "",
        "Manufacturer": "maker",
    }
    with disable_value_validation():
        for keyword, value in (plain | attributes).items():
            if value is not None:
                setattr(made, keyword, value)
    return made


def stack(count: int, uid: str = "1.2.826.0.1.3", **attributes: object) -> list[Dataset]:
    """Slices 3 mm apart."""
    own = [
        {"SOPInstanceUID": f"{uid}.1.{z}", "ImagePositionPatient": [-10, -20, 30 + 3 * z]} for z in range(count)
    ]
    return [header(uid, **each | attributes) for each in own]


def enhanced(count: int) -> Dataset:
    """A multi-frame object whose frames say where they lie, the orientation each for itself."""
    made = header(SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=count)
    shared, groups = Dataset(), []
    for z in range(count):
        group, position, orientation = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-10, -20, 30 + 3 * z]
        orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        group.PlanePositionSequence, group.PlaneOrientationSequence = [position], [orientation]
        groups.append(group)
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [2, 0.5], 3
    shared.PixelMeasuresSequence = [measures]
    made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence = [shared], groups
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del made[keyword]
    return made


def cine(count: int) -> Dataset:
    """Ultrasound: frames that lie nowhere."""
    bare = dict.fromkeys(("FrameOfReferenceUID", "PositionReferenceIndicator", "ImagePositionPatient"))
    bare |= dict.fromkeys(("ImageOrientationPatient", "PixelSpacing", "SliceThickness"))
    return header(
        **{**bare, "SOPClassUID": UltrasoundMultiFrameImageStorage, "Modality": "US", "NumberOfFrames": count}
    )


def keys(headers: list[Dataset]) -> list[FrameKey]:
    counts = {str(one.SOPInstanceUID): int(one.get("NumberOfFrames", 1)) for one in headers}
    return [(uid, frame + 1) for uid, count in counts.items() for frame in range(count)]


def mask(seed: int, rows: int = ROWS, columns: int = COLUMNS) -> npt.NDArray[np.bool_]:
    """bool (rows, columns), of no symmetry."""
    return np.random.default_rng(seed).random((rows, columns)) < 0.3
