"""DICOM objects as bytes of a file (PS3.10), in Explicit VR Little Endian.

Knows the form. Does not know what the objects are.
"""

from __future__ import annotations

from io import BytesIO

import pydicom
from pydicom.dataset import Dataset

from mediround.dicom.quiet import quiet


def encode(dataset: Dataset) -> bytes:
    """The object as a file's bytes: equal for equal objects."""
    stream = BytesIO()
    with quiet():
        pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()
