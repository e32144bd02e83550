"""Pictures of results: the frame, each mask in its colour, and NOT FOR DIAGNOSIS in the pixels."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pydicom
from pydicom.data import get_testdata_file

from mediround.dicom import read
from mediround.dicom.results import Provenance, Segment, encode, write_sc
from mediround.dicom.results.capture import BURNED_IN, colour, drawn

PROVENANCE = Provenance("session-1", "mediround-lite", "0.4.0", "ab" * 32)
INSTANCE = read(str(get_testdata_file("CT_small.dcm")))
FRAME = INSTANCE.frame(window=(40, 400))
KEY = (str(INSTANCE.header.SOPInstanceUID), 1)
MASK = np.zeros((128, 128), np.bool_)
MASK[70:100, 30:60] = True
ROUNDS = [Segment("liver", {KEY: MASK}, 0, 0.9), Segment("not here", {}, 1)]


def test_a_picture_holds_the_image_the_mask_and_the_disclaimer() -> None:
    plain, picture = drawn(FRAME, [], KEY), drawn(FRAME, ROUNDS[:1], KEY)
    assert picture.shape == (512, 512, 3)
    changed = (picture != plain).any(-1)
    assert changed[300:380, 130:230].all()
    assert not changed[:, 260:].any()
    assert tuple(picture[280, 120]) == colour(0)
    bare = FRAME.image.repeat(4, 0).repeat(4, 1)[..., None]
    words = (plain != bare).any(-1)
    assert words[:30].any()
    assert not words[40:].any()
    assert BURNED_IN == "NOT FOR DIAGNOSIS"


def test_it_says_what_it_is_of_and_its_bytes_repeat() -> None:
    first, again = (write_sc([INSTANCE.header], ROUNDS, PROVENANCE, {KEY: FRAME}) for _ in range(2))
    assert [encode(one) for one in first] == [encode(one) for one in again]
    [made] = (pydicom.dcmread(BytesIO(encode(one))) for one in first)
    assert made.BurnedInAnnotation == "YES"
    assert made.SeriesDescription.startswith("AI, not for diagnosis")
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == KEY[0]
    assert (made.StudyInstanceUID, made.PatientID) == (INSTANCE.header.StudyInstanceUID, INSTANCE.header.PatientID)
    assert np.array_equal(made.pixel_array, drawn(FRAME, ROUNDS[:1], KEY))


def test_frames_on_which_nothing_was_found_have_no_picture() -> None:
    assert write_sc([INSTANCE.header], ROUNDS[1:], PROVENANCE, {KEY: FRAME}) == []
