"""Headers that stand in for the sources while highdicom builds an object, and what is put right afterwards.

highdicom takes single-frame objects of one series, or one multi-frame object. With a single-frame stand-in for
each frame, any mixture goes into one object, and only the frames that have a mask are copied. A stand-in holds
what may be copied into a result and nothing else, in values that can be written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage
from pydicom.valuerep import DA, TM, PersonName

from mediround.dicom.attributes import numbers, text, whole
from mediround.dicom.errors import BadAttribute
from mediround.dicom.results.identity import uid
from mediround.dicom.results.sources import ORIENTATION_TOLERANCE, SPACING_TOLERANCE, SourceFrame
from mediround.errors import FieldViolation, InvalidArgument

NAMES = ("PatientName", "ReferringPhysicianName")
_DATES = ("PatientBirthDate", "StudyDate")
_TIMES = ("StudyTime",)
_TEXTS = ("PatientID", "AccessionNumber", "StudyID", "StudyDescription", "PatientAge", "IssuerOfPatientID")
_SEXES = {"M", "F", "O"}
_TRIAL = (
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialSiteID",
    "ClinicalTrialSubjectID",
    "ClinicalTrialTimePointID",
)


def standins(frames: Sequence[SourceFrame]) -> list[Dataset]:
    """One for each frame; without the names of people, which highdicom's warnings repeat.

    Raises InvalidArgument for frames of several orientations, sizes or spacings.
    """
    found = [_standin(number, frame) for number, frame in enumerate(frames, start=1)]
    if len({(each.Rows, each.Columns) for each in found}) > 1:
        raise _refused("must be of one size: write the results of each size apart")
    placed = [each for each in found if "ImageOrientationPatient" in each]
    for each in placed:
        if _apart(each.ImageOrientationPatient, placed[0].ImageOrientationPatient) > ORIENTATION_TOLERANCE:
            raise _refused("must lie in one orientation: write the results of each orientation apart")
        spacing = placed[0].PixelSpacing
        if _apart(each.PixelSpacing, spacing) > SPACING_TOLERANCE * max(map(float, spacing)):
            raise _refused("must have pixels of one size: write the results of each spacing apart")
        each.ImageOrientationPatient = placed[0].ImageOrientationPatient
    return found


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(float(a) - float(b)) for a, b in zip(one, other, strict=True))


def _standin(number: int, frame: SourceFrame) -> Dataset:
    header, made = frame.header, Dataset()
    if number == 1:  # highdicom takes patient and study from the first
        made = identity(header)
    made.StudyInstanceUID = text(header, "StudyInstanceUID")
    made.Rows, made.Columns = (whole(header, keyword, 1, 65535) for keyword in ("Rows", "Columns"))
    made.Modality, made.SeriesInstanceUID = text(header, "Modality") or "OT", text(header, "SeriesInstanceUID")
    for keyword in NAMES:
        setattr(made, keyword, "")
    made.SOPInstanceUID = uid("standin", str(number))
    made.SOPClassUID = CTImageStorage if frame.placed else SecondaryCaptureImageStorage
    made.SliceThickness = None
    if text(header, "LossyImageCompression") == "01":
        _copy_lossy(header, made)
    if frame.placed:
        made.FrameOfReferenceUID = text(header, "FrameOfReferenceUID")
        made.PositionReferenceIndicator = text(header, "PositionReferenceIndicator")
        for keyword, value in frame.place.items():
            setattr(made, keyword, value)
    return made


def _copy_lossy(header: Dataset, made: Dataset) -> None:
    made.LossyImageCompression = "01"
    if method := text(header, "LossyImageCompressionMethod"):
        made.LossyImageCompressionMethod = method
    with contextlib.suppress(BadAttribute):
        if ratios := numbers(header, "LossyImageCompressionRatio"):
            made.LossyImageCompressionRatio = ratios[0]


def identity(header: Dataset) -> Dataset:
    """Patient and study of a source, in values that may be written: what cannot be is left empty."""
    made = Dataset()
    made.StudyInstanceUID = text(header, "StudyInstanceUID")
    for keyword in NAMES:
        setattr(made, keyword, PersonName(text(header, keyword)))
    for keyword in _DATES:
        setattr(made, keyword, _readable(text(header, keyword), DA))
    for keyword in _TIMES:
        setattr(made, keyword, _readable(text(header, keyword), TM))
    for keyword in (*_TEXTS, *_TRIAL):
        value = text(header, keyword)
        if value or keyword in _TEXTS[:3]:
            setattr(made, keyword, value)
    sex = text(header, "PatientSex")
    made.PatientSex = sex if sex in _SEXES else ""
    return made


def _readable(value: str, kind: type[DA | TM]) -> str:
    """The date or time; empty for one that cannot be."""
    try:
        return str(kind(value)) if value else ""
    except (ValueError, OverflowError):
        return ""


def put_names(built: Dataset, frames: Sequence[SourceFrame]) -> None:
    """Put in the patient's name, and the frames' own UIDs where the object refers to its sources."""
    names = identity(frames[0].header)
    for keyword in NAMES:
        setattr(built, keyword, names.get(keyword))
    by_uid = {str(uid("standin", str(number))): frame for number, frame in enumerate(frames, start=1)}
    for group in built.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence") or []:
            for item in derivation.SourceImageSequence:
                # Segments of one frame share the item.
                if frame := by_uid.get(str(item.ReferencedSOPInstanceUID)):
                    _name(item, frame)
    objects = list({frame.key[0]: frame for frame in frames}.values())
    built.SourceImageSequence = [_reference(frame) for frame in objects]
    series = Dataset()
    series.SeriesInstanceUID = text(frames[0].header, "SeriesInstanceUID")
    series.ReferencedInstanceSequence = [_reference(frame) for frame in objects]
    built.ReferencedSeriesSequence = [series]


def _reference(frame: SourceFrame) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = text(frame.header, "SOPClassUID")
    item.ReferencedSOPInstanceUID = frame.key[0]
    return item


def _name(item: Dataset, frame: SourceFrame) -> None:
    item.ReferencedSOPClassUID = text(frame.header, "SOPClassUID")
    item.ReferencedSOPInstanceUID = frame.key[0]
    if frame.multiframe:
        item.ReferencedFrameNumber = frame.key[1]


def _refused(words: str) -> InvalidArgument:
    return InvalidArgument(f"sources: {words}", (FieldViolation("sources", words),))
