"""Debian's Orthanc as the other tests of this folder use it: it stores, gives back, and wants a password."""

from __future__ import annotations

import numpy as np
import pydicom
import requests
from pydicom.data import get_testdata_file

from demo.dicom.orthanc import Orthanc


def test_what_is_stored_is_given_back(orthanc: Orthanc) -> None:
    kept = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    reply = orthanc.dicomweb.store_instances([kept])
    assert not reply.get("FailedSOPSequence")
    [back] = orthanc.dicomweb.retrieve_series(kept.StudyInstanceUID, kept.SeriesInstanceUID)
    assert np.array_equal(back.pixel_array, kept.pixel_array)


def test_nothing_is_told_without_the_password(orthanc: Orthanc) -> None:
    assert requests.get(f"{orthanc.url}/dicom-web/studies", timeout=10).status_code == 401
