"""SEG objects: what they hold is what was given, they refer to what they are about, and their bytes repeat.

Read back by pydicom and by highdicom's own reader. Whether they are valid is ``tests/pacs``'s.
"""

from __future__ import annotations

import random
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import UltrasoundMultiFrameImageStorage

from mediround.dicom.attributes import text, whole
from mediround.dicom.errors import BadAttribute, DicomError
from mediround.dicom.results import Origin, Segment, SegmentationType, encode, write_seg, write_sr
from mediround.dicom.results.parts import MOST_FRAMES
from mediround.dicom.source import opened
from mediround.errors import InvalidArgument
from tests.unit.client.dicom.series import PROVENANCE, cine, enhanced, header, keys, mask, stack

Masks = dict[tuple[int, str, int], np.ndarray]


def read(dataset: Dataset) -> Dataset:
    return pydicom.dcmread(BytesIO(encode(dataset)))


def masks_of(written: list[Dataset]) -> Masks:
    """By label, SOP Instance UID and frame, by pydicom alone."""
    found: Masks = {}
    for each in map(read, written):
        pixels = each.pixel_array.reshape(-1, each.Rows, each.Columns)
        for plane, group in zip(pixels, each.PerFrameFunctionalGroupsSequence, strict=True):
            number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            label = each.SegmentSequence[number - 1].SegmentLabel
            item = group.DerivationImageSequence[0].SourceImageSequence[0]
            found[label, str(item.ReferencedSOPInstanceUID), int(item.get("ReferencedFrameNumber", 1))] = plane > 0
    return found


def given(segments: list[Segment]) -> Masks:
    return {(one.label, *key): bits for one in segments for key, bits in one.masks.items() if bits.any()}


def assert_same(written: list[Dataset], segments: list[Segment]) -> None:
    found, wanted = masks_of(written), given(segments)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


SLICES = stack(4)
SINGLE = keys(SLICES)
ROUNDS = [
    Segment("the left thalamus", {SINGLE[0]: mask(1), SINGLE[2]: mask(2)}, 0, 0.9),
    Segment("tumour", {SINGLE[2]: mask(3), SINGLE[3]: mask(4)}, 1, 0.25, corrected=True),
    Segment("nothing of the kind", {SINGLE[1]: np.zeros_like(mask(1))}, 2),
]


def test_masks_come_back_as_they_were_given() -> None:
    written = write_seg(SLICES, ROUNDS, PROVENANCE)
    assert len(written) == 1
    assert_same(written, ROUNDS)
    reader = hd.seg.segread(BytesIO(encode(written[0])))
    back = reader.get_pixels_by_source_instance([SINGLE[2][0]], segment_numbers=[1, 2])
    assert np.array_equal(back[0, :, :, 1] > 0, mask(3))
    assert [one.SegmentLabel for one in written[0].SegmentSequence] == ["the left thalamus", "tumour"]


def test_an_object_says_what_made_it_and_what_it_is_about() -> None:
    [written] = map(read, write_seg(SLICES, ROUNDS, PROVENANCE))
    assert written.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert written.SeriesDescription.startswith("AI, not for diagnosis")
    assert (written.StudyInstanceUID, written.FrameOfReferenceUID) == (
        SLICES[0].StudyInstanceUID,
        SLICES[0].FrameOfReferenceUID,
    )
    assert (written.PatientName, written.ContentDate, written.ContentTime) == ("Doe^Jane", "20260102", "030405")
    [series] = written.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SLICES[0].SeriesInstanceUID
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence] == [
        SINGLE[index][0] for index in (0, 2, 3)
    ]
    thalamus, tumour = written.SegmentSequence
    assert thalamus.SegmentedPropertyTypeCodeSequence[0].CodeValue == "42695009"
    [side] = thalamus.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert side.CodeMeaning == "Left"
    assert tumour.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert (tumour.TrackingID, tumour.SegmentAlgorithmType) == ("tumour", "AUTOMATIC")
    [algorithm] = tumour.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert f"engine_digest={'cd' * 32}" in "".join(algorithm.AlgorithmParameters)
    assert "window=400/40" in "".join(algorithm.AlgorithmParameters)


def test_one_segment_refers_to_its_series_and_each_frame_names_it() -> None:
    [written] = map(read, write_seg(SLICES, ROUNDS[:1], PROVENANCE))
    assert "ReferencedSeriesSequence" in written
    assert "SegmentIdentificationSequence" not in written.SharedFunctionalGroupsSequence[0]
    referenced = hd.sr.ReferencedSegment.from_segmentation(
        hd.seg.Segmentation.from_dataset(written), segment_number=1
    )
    assert referenced.referenced_segment_numbers == [1]


def test_bytes_repeat_and_another_mask_gets_other_uids() -> None:
    [first], [again] = (write_seg(SLICES, ROUNDS, PROVENANCE) for _ in range(2))
    assert encode(first) == encode(again)
    others = [
        write_seg(SLICES, [replace(ROUNDS[0], masks={SINGLE[0]: mask(9)}), *ROUNDS[1:]], PROVENANCE),
        write_seg(SLICES, [replace(ROUNDS[0], score=0.8), *ROUNDS[1:]], PROVENANCE),
        write_seg(SLICES, ROUNDS, replace(PROVENANCE, parameters={"window": "80/40"})),
        write_seg(SLICES, ROUNDS, replace(PROVENANCE, model_digest="ef" * 32)),
        write_seg(SLICES, ROUNDS, replace(PROVENANCE, run="session-2")),
        write_seg(stack(4, "1.2.826.0.1.4"), [_moved(one) for one in ROUNDS], PROVENANCE),
    ]
    uids = [first.SOPInstanceUID, *(one.SOPInstanceUID for [one] in others)]
    assert len(set(uids)) == len(uids)
    assert all(str(uid).startswith("2.25.") and len(uid) <= 64 for uid in uids)
    assert others[0][0].SegmentSequence[0].TrackingUID == first.SegmentSequence[0].TrackingUID


def _moved(segment: Segment) -> Segment:
    moved = {(uid.replace("1.3.1.", "1.4.1."), frame): bits for (uid, frame), bits in segment.masks.items()}
    return replace(segment, masks=moved)


def test_a_revised_result_names_its_predecessor() -> None:
    earlier = write_seg(SLICES, ROUNDS, PROVENANCE)
    [revised] = write_seg(SLICES, ROUNDS[1:], PROVENANCE, revises=earlier)
    assert [one.ReferencedSOPInstanceUID for one in revised.ReferencedImageSequence] == [earlier[0].SOPInstanceUID]
    [same] = write_seg(SLICES, ROUNDS, PROVENANCE, revises=earlier)
    assert encode(same) == encode(earlier[0])


def test_frames_of_an_enhanced_object_are_named_by_number() -> None:
    source = enhanced(5)
    names = keys([source])
    segments = [Segment("liver", {names[1]: mask(1), names[4]: mask(2)})]
    [written] = write_seg([source], segments, PROVENANCE)
    assert_same([written], segments)
    positions = [
        float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        for group in written.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(positions) == [33, 42]


def test_frames_that_lie_nowhere_are_written_one_by_one() -> None:
    source = cine(30)
    names = keys([source])
    segments = [
        Segment("left ventricle", {names[2]: mask(1), names[8]: mask(2)}),
        Segment("x", {names[8]: mask(3)}, 1),
    ]
    written = write_seg([source], segments, PROVENANCE)
    assert [int(one.NumberOfFrames) for one in written] == [1, 2]
    assert_same(written, segments)


def test_frames_of_an_older_object_are_not_all_where_its_first_is() -> None:
    source = header(NumberOfFrames=3, SOPClassUID=UltrasoundMultiFrameImageStorage)
    segments = [Segment("x", dict.fromkeys(keys([source]), mask(1)))]
    assert [int(one.NumberOfFrames) for one in write_seg([source], segments, PROVENANCE)] == [1, 1, 1]


def test_frames_at_one_place_go_into_an_object_each() -> None:
    """A cardiac series: two slices, three times."""
    sources = [one for time in range(3) for one in stack(2, f"1.2.826.0.1.{time}", SeriesInstanceUID="1.2.3")]
    for one in sources:
        one.StudyInstanceUID, one.FrameOfReferenceUID = sources[0].StudyInstanceUID, sources[0].FrameOfReferenceUID
    segments = [Segment("x", {key: mask(index) for index, key in enumerate(keys(sources))})]
    written = write_seg(sources, segments, PROVENANCE)
    assert [int(one.NumberOfFrames) for one in written] == [2, 2, 2]
    assert_same(written, segments)


def test_an_object_has_400_frames_at_most() -> None:
    sources = stack(MOST_FRAMES + 20, Rows=4, Columns=4)
    names = keys(sources)
    bits = np.ones((4, 4), np.bool_)
    segments = [
        Segment("liver", dict.fromkeys(names[:10], bits), 0),
        Segment("spleen", dict.fromkeys(names, bits), 1),
        Segment("aorta", dict.fromkeys(names[:30], bits), 2),
    ]
    written = write_seg(sources, segments, PROVENANCE)
    assert [int(one.NumberOfFrames) for one in written] == [10, 400, 50]
    assert_same(written, segments)
    assert len({one.SeriesInstanceUID for one in written}) == 1
    spleens = [one.SegmentSequence[0].TrackingUID for one in written[1:]]
    assert spleens[0] == spleens[1]


def test_a_label_map_is_refused_where_segments_overlap() -> None:
    with pytest.raises(InvalidArgument, match="write BINARY"):
        write_seg(SLICES, ROUNDS, PROVENANCE, kind=SegmentationType.LABELMAP)
    apart = [replace(ROUNDS[1], masks={SINGLE[2]: ~mask(2)}), ROUNDS[0]]
    [written] = map(read, write_seg(SLICES, apart, PROVENANCE, kind=SegmentationType.LABELMAP))
    sources = [
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for group in written.PerFrameFunctionalGroupsSequence
    ]
    labels = dict(zip(sources, written.pixel_array, strict=True))
    assert np.array_equal(labels[SINGLE[2][0]], np.where(mask(2), 2, 1))
    assert np.array_equal(labels[SINGLE[0][0]], np.where(mask(1), 2, 0))


def test_what_a_person_drew_is_not_said_to_be_the_models() -> None:
    [written] = write_seg(SLICES, [replace(ROUNDS[0], origin=Origin.MANUAL)], PROVENANCE)
    assert written.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"
    assert "SegmentationAlgorithmIdentificationSequence" not in written.SegmentSequence[0]


def test_nothing_found_is_no_object() -> None:
    assert write_seg(SLICES, ROUNDS[2:], PROVENANCE) == []


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientSex": "unknown", "PatientBirthDate": "0000", "StudyDate": "yesterday", "StudyTime": "25"},
        dict.fromkeys(["PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"]),
        {"PatientName": "only one component", "StudyTime": None, "AcquisitionDate": "20260230"},
        {"PatientName": "山田^太郎", "SliceThickness": None, "AccessionNumber": None, "StudyID": None},
        {"PatientID": "x" * 100, "PositionReferenceIndicator": None, "Manufacturer": None},
    ],
)
def test_odd_headers_are_written_all_the_same(attributes: dict[str, object]) -> None:
    [written] = write_seg([header(**attributes)], [Segment("x", {keys([header()])[0]: mask(1)})], PROVENANCE)
    assert read(written).pixel_array.any()


@pytest.mark.parametrize("label", ["", "a\\b", "x" * 99, "Läsion 肝", "two\nlines\0", "\ud800"])
def test_odd_phrases_are_kept_as_far_as_they_can_be(label: str) -> None:
    [written] = map(read, write_seg(SLICES, [replace(ROUNDS[0], label=label)], PROVENANCE))
    assert 0 < len(written.SegmentSequence[0].SegmentLabel) <= 64


def _refused(**attributes: object) -> list[Dataset]:
    return [header(**attributes)]


@pytest.mark.parametrize(
    ("sources", "masks", "error", "words"),
    [
        ([], {}, InvalidArgument, "at least one"),
        ([*stack(1), *stack(1, "1.9")], {}, InvalidArgument, "of one series"),
        (SLICES, {("1.2", 1): mask(1)}, InvalidArgument, "one of the sources'"),
        (SLICES, {SINGLE[0]: mask(1, 3, 4)}, InvalidArgument, "Rows and Columns"),
        (SLICES, {SINGLE[0]: mask(1).astype(np.uint8)}, InvalidArgument, "bool"),
        (_refused(SeriesInstanceUID=None), {}, BadAttribute, "SeriesInstanceUID"),
        (
            [*stack(1), *stack(2, ImageOrientationPatient=[0, 1, 0, 0, 0, 1])[1:]],
            {SINGLE[0]: mask(1), SINGLE[1]: mask(1)},
            InvalidArgument,
            "one orientation",
        ),
        (
            [*stack(1), *stack(2, PixelSpacing=[2, 0.6])[1:]],
            {SINGLE[0]: mask(1), SINGLE[1]: mask(1)},
            InvalidArgument,
            "pixels of one size",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_in_words(sources, masks, error, words) -> None:
    with pytest.raises(error, match=words):
        write_seg(sources, [Segment("x", masks)], PROVENANCE)


def test_orientations_within_the_tolerance_go_together() -> None:
    sources = [*stack(1), *stack(2, ImageOrientationPatient=[1, 0.00005, 0, 0, 1, 0])[1:]]
    [written] = write_seg(sources, [Segment("x", dict.fromkeys(keys(sources), mask(1)))], PROVENANCE)
    assert int(written.NumberOfFrames) == 2


def test_damaged_headers_are_refused_or_written() -> None:
    """Bytes of real headers changed: objects, or an error of ours."""
    files = [Path(str(get_testdata_file(name))).read_bytes() for name in ("CT_small.dcm", "MR_small.dcm")]
    chance, outcomes = random.Random(4), set()  # noqa: S311
    for _ in range(60):
        file = bytearray(chance.choice(files))
        for _ in range(chance.randint(1, 12)):
            file[chance.randrange(340, 4500)] = chance.randrange(256)
        try:
            source = opened(bytes(file)).header
            name = text(source, "SOPInstanceUID")
            size = whole(source, "Rows", 1, 512), whole(source, "Columns", 1, 512)
        except DicomError:
            continue  # before a result is thought of
        try:
            segments = [Segment("liver", {(name, 1): np.ones(size, np.bool_)})]
            report = write_sr([source], segments, PROVENANCE, write_seg([source], segments, PROVENANCE))
            outcomes.add(bool(encode(report)))
        except (DicomError, InvalidArgument) as error:
            outcomes.add(type(error))
    assert True in outcomes


def test_more_frames_than_an_object_can_have_are_refused() -> None:
    with pytest.raises(BadAttribute, match="NumberOfFrames"):
        write_seg([header(NumberOfFrames=10**9)], [Segment("x", {})], PROVENANCE)
