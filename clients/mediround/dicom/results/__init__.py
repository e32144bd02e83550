"""Results as DICOM objects: segmentations (SEG), a structured report (TID 1500), pictures (secondary capture).

Knows what is written and what it refers to. Does not know servers, files or archives: it makes data sets of
pydicom, which ``encode`` turns into the bytes of a file (PS3.10).
"""

from mediround.dicom.results.capture import Pictures, write_sc
from mediround.dicom.results.files import encode
from mediround.dicom.results.report import write_sr
from mediround.dicom.results.segmentation import SegmentationType, write_seg
from mediround.dicom.results.segments import FrameKey, Origin, Provenance, Segment
from mediround.dicom.results.terms import Term, term_of

__all__ = [
    "FrameKey",
    "Origin",
    "Pictures",
    "Provenance",
    "Segment",
    "SegmentationType",
    "Term",
    "encode",
    "term_of",
    "write_sc",
    "write_seg",
    "write_sr",
]
