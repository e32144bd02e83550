"""Masks of SEG objects come back as they were stored, on the frames that they are about; damaged ones are refused.

Written by highdicom in each form, by ``write_seg``, and by what OHIF stores with.
"""

from __future__ import annotations

import copy
import random
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from mediround.dicom import BadAttribute, DicomError, StoredSegmentation, read_segmentation
from mediround.dicom.results import Segment, SegmentationType, encode, write_seg
from mediround.errors import InvalidArgument
from tests.unit.client.dicom.series import COLUMNS, PROVENANCE, ROWS, cine, enhanced, header, keys, mask, stack

SLICES = stack(4)
NAMES = keys(SLICES)
APART = np.zeros((ROWS, COLUMNS), np.bool_)
APART[:5, :7] = True


def by_highdicom(kind: str, pixels: np.ndarray, syntax: str, **more: object) -> Dataset:
    """Four slices, pixels (4, Rows, Columns, segments)."""
    described = [
        hd.seg.SegmentDescription(
            number + 1, f"segment {number + 1}", codes.SCT.Tissue, codes.SCT.Tissue, "AUTOMATIC",
            hd.AlgorithmIdentificationSequence("a", codes.DCM.ArtificialIntelligence, "1"),
        )
        for number in range(pixels.shape[-1])
    ]  # fmt: skip
    sources = [copy.deepcopy(one) for one in SLICES]
    for one in sources:
        one.SOPClassUID = uid.CTImageStorage
    return hd.seg.Segmentation(
        sources, pixels.copy(), kind, described, "1.2.3", 1, "1.2.4", 1, "maker", "model", "1", "serial",
        transfer_syntax_uid=syntax, **more,
    )  # fmt: skip


def deflated(dataset: Dataset) -> bytes:
    kept = pydicom.dcmread(BytesIO(encode(dataset)))
    kept.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    stream = BytesIO()
    pydicom.dcmwrite(stream, kept, enforce_file_format=True)
    return stream.getvalue()


def masks_of(stored: StoredSegmentation, sources: list[Dataset] = SLICES) -> dict[tuple[int, int], np.ndarray]:
    """By segment and source."""
    found = {
        (one.number, index): stored.mask(one.number, source)
        for one in stored.segments
        for index, source in enumerate(sources)
    }
    return {key: bits for key, bits in found.items() if bits is not None}


def assert_masks(found: dict[tuple[int, int], np.ndarray], wanted: dict[tuple[int, int], np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


PIXELS = np.zeros((4, ROWS, COLUMNS, 2), np.uint8)
PIXELS[1, ..., 0], PIXELS[1, ..., 1], PIXELS[3, ..., 1] = mask(1) & ~APART, APART, mask(2)
WANTED = {(1, 1): mask(1) & ~APART, (2, 1): APART, (2, 3): mask(2)}


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", uid.ExplicitVRLittleEndian),
        ("BINARY", uid.ImplicitVRLittleEndian),
        ("FRACTIONAL", uid.ExplicitVRLittleEndian),
        ("FRACTIONAL", uid.RLELossless),
        ("FRACTIONAL", uid.JPEGLSLossless),
        ("LABELMAP", uid.ExplicitVRLittleEndian),
        ("LABELMAP", uid.RLELossless),
        ("LABELMAP", uid.JPEGLSLossless),
    ],
)
def test_every_form_comes_back_pixel_by_pixel(kind: str, syntax: str) -> None:
    assert_masks(masks_of(read_segmentation(encode(by_highdicom(kind, PIXELS, syntax)))), WANTED)


def test_a_label_map_of_ohif_comes_back_pixel_by_pixel() -> None:
    """RLE Lossless, of OHIF 3.13.2's library (``ohif_labelmap.mjs``): a stair on two slices, a box on one."""
    rows, columns = np.indices((ROWS, COLUMNS))
    stair = (rows < 12) & (columns <= 2 * rows)
    box = (rows >= 16) & (rows < 20) & (columns >= 5) & (columns < 30)
    path = Path(__file__).with_name("ohif_labelmap.dcm")
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == uid.RLELossless
    stored = read_segmentation(path)
    assert [(one.number, one.label) for one in stored.segments] == [(1, "stair"), (2, "box")]
    assert_masks(masks_of(stored), {(1, 1): stair, (1, 2): stair, (2, 2): box})


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_deflated_objects_and_data_sets_are_read(kind: str) -> None:
    written = by_highdicom(kind, PIXELS, uid.ExplicitVRLittleEndian)
    assert_masks(masks_of(read_segmentation(deflated(written))), WANTED)
    assert_masks(masks_of(read_segmentation(written)), WANTED)


def test_a_fraction_is_set_from_the_threshold_on() -> None:
    levels = np.zeros((4, ROWS, COLUMNS, 1))
    levels[0, :, :10, 0], levels[0, :, 10:20, 0] = 0.4, 0.8
    stored = encode(by_highdicom("FRACTIONAL", levels, uid.ExplicitVRLittleEndian, max_fractional_value=100))
    for threshold, columns in ((0.4, range(20)), (0.5, range(10, 20)), (0.8, range(10, 20))):
        found = read_segmentation(stored, threshold=threshold).mask(1, SLICES[0])
        assert found is not None
        assert set(np.flatnonzero(found.all(0))) == set(columns)
    assert read_segmentation(stored, threshold=1).mask(1, SLICES[0]) is None


@pytest.mark.parametrize("kind", SegmentationType)
def test_ours_come_back_by_reference(kind: SegmentationType) -> None:
    rounds = [Segment("a", {NAMES[0]: APART, NAMES[2]: mask(1)}), Segment("b", {NAMES[0]: ~APART & mask(3)}, 1)]
    [written] = write_seg(SLICES, rounds, PROVENANCE, kind=kind)
    stored = read_segmentation(encode(written))
    assert [one.label for one in stored.segments] == ["a", "b"]
    assert_masks(masks_of(stored), {(1, 0): APART, (1, 2): mask(1), (2, 0): ~APART & mask(3)})


def test_frames_of_one_object_are_told_apart() -> None:
    for source in (enhanced(6), cine(6)):
        names = keys([source])
        [written] = write_seg([source], [Segment("a", {names[4]: mask(1)})], PROVENANCE)
        stored = read_segmentation(written)
        assert [stored.mask(1, source, frame) is not None for frame in range(1, 7)] == [False] * 4 + [True, False]


def test_an_image_of_another_series_is_found_by_its_place() -> None:
    [written] = write_seg(SLICES, [Segment("a", {NAMES[1]: mask(1)})], PROVENANCE)
    stored = read_segmentation(written)
    place = {"FrameOfReferenceUID": SLICES[0].FrameOfReferenceUID, "ImagePositionPatient": [-10, -20, 33.004]}
    there = header("1.2.99", **place)
    assert np.array_equal(stored.mask(1, there), mask(1))
    elsewhere: list[dict[str, object]] = [
        {"FrameOfReferenceUID": "1.2.99.7"},
        {"ImagePositionPatient": [-10, -20, 36]},
        {"ImagePositionPatient": [-9, -20, 33]},
        {"ImageOrientationPatient": [1, 0, 0, 0, -1, 0]},
        {"PixelSpacing": [2, 1]},
        {"Rows": ROWS + 1},
        {"ImagePositionPatient": None},
    ]
    for change in elsewhere:
        assert stored.mask(1, header("1.2.99", **place | change)) is None


def test_a_mask_of_another_size_than_its_image_is_refused() -> None:
    [written] = write_seg(SLICES, [Segment("a", {NAMES[1]: mask(1)})], PROVENANCE)
    stored = read_segmentation(written)
    larger = header(SOPInstanceUID=NAMES[1][0], Rows=ROWS * 2)
    with pytest.raises(InvalidArgument, match="Rows and Columns"):
        stored.mask(1, larger)
    with pytest.raises(InvalidArgument, match="segment: must be"):
        stored.mask(2, SLICES[1])
    with pytest.raises(InvalidArgument, match="threshold"):
        read_segmentation(written, threshold=0)


def changed(**attributes: object) -> Dataset:
    [written] = write_seg(SLICES, [Segment("a", {NAMES[1]: mask(1)})], PROVENANCE)
    made = copy.deepcopy(written)
    for keyword, value in attributes.items():
        delattr(made, keyword) if value is None else setattr(made, keyword, value)
    return made


@pytest.mark.parametrize(
    "attributes",
    [
        {"SOPClassUID": uid.CTImageStorage},
        {"SegmentationType": None},
        {"SegmentationType": "SURFACE"},
        {"SegmentationType": "FRACTIONAL"},
        {"BitsAllocated": 16},
        {"Rows": None},
        {"PixelData": None},
        {"PerFrameFunctionalGroupsSequence": None},
        {"Rows": 65535, "Columns": 65535},
        {"NumberOfFrames": 0},
    ],
)
def test_what_is_no_segmentation_is_refused(attributes: dict[str, object]) -> None:
    with pytest.raises(DicomError):
        read_segmentation(changed(**attributes))


def test_more_frames_than_there_are_is_refused() -> None:
    with pytest.raises(DicomError):
        masks_of(read_segmentation(changed(NumberOfFrames=1 << 20)))


def test_damaged_files_hurt_nothing() -> None:
    """Bytes changed, cut out, doubled: masks, or an error of ours."""
    files = [
        encode(by_highdicom("BINARY", PIXELS, uid.ExplicitVRLittleEndian)),
        encode(by_highdicom("LABELMAP", PIXELS, uid.RLELossless)),
    ]
    chance, outcomes = random.Random(19), set()  # noqa: S311
    for _ in range(200):
        file = bytearray(chance.choice(files))
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(132, len(file))
            match chance.randrange(3):
                case 0:
                    file[at] = chance.randrange(256)
                case 1:
                    del file[at : at + chance.randrange(1, 40)]
                case _:
                    file[at:at] = file[at : at + 20]
        try:
            masks_of(read_segmentation(bytes(file)))
            outcomes.add("read")
        except (DicomError, InvalidArgument) as error:
            outcomes.add(type(error).__name__)
    assert {"read", BadAttribute.__name__} <= outcomes
