"""DICOM objects as images for the client, and masks back on their own pixels: extra ``./clients[dicom]``.

``read`` takes a path, the bytes of a Part 10 file or a pydicom data set; ``Instance.frame`` makes 8 bits of one
frame; ``mediround.dicom.errors`` says what to do about each error. For research and education, not for diagnosis.
"""

from mediround.dicom.errors import (
    BadAttribute,
    BadPixels,
    DicomError,
    NoImage,
    NotDicom,
    TooLarge,
    UnsupportedSyntax,
)
from mediround.dicom.instance import Frame, Instance, read
from mediround.dicom.segmentation import StoredSegment, StoredSegmentation, read_segmentation
from mediround.dicom.series.reading import read_series
from mediround.dicom.series.stack import Gap, SeriesReading, SetAside, Stack, StackFrame
from mediround.dicom.volume.answers import FrameAnswer, FrameResult
from mediround.dicom.volume.segmenting import segment_stack, segment_stack_async
from mediround.dicom.windowing import PRESETS
from mediround.window import AppliedWindow, Window, WindowChoice

__all__ = [
    "PRESETS",
    "AppliedWindow",
    "BadAttribute",
    "BadPixels",
    "DicomError",
    "Frame",
    "FrameAnswer",
    "FrameResult",
    "Gap",
    "Instance",
    "NoImage",
    "NotDicom",
    "SeriesReading",
    "SetAside",
    "Stack",
    "StackFrame",
    "StoredSegment",
    "StoredSegmentation",
    "TooLarge",
    "UnsupportedSyntax",
    "Window",
    "WindowChoice",
    "read",
    "read_segmentation",
    "read_series",
    "segment_stack",
    "segment_stack_async",
]
