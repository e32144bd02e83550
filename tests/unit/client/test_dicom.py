"""``mediround.dicom`` reads what pydicom's own files hold: frames, windows, colour, pixels that are not square.

Knows objects made here and pydicom's files. Does not know what dcmtk makes of them.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from mediround import InvalidArgument, dicom
from mediround.dicom.aspect import Grid
from mediround.window import Window


def stored(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def ct(pixels: np.ndarray, **attributes: object) -> Dataset:
    """A CT image of int16 (H, W), or (frames, H, W)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = CTImageStorage, "1.2.3", "CT"
    dataset.set_pixel_data(pixels if pixels.ndim == 2 else pixels[0], "MONOCHROME2", 16)
    if pixels.ndim == 3:
        dataset.NumberOfFrames, dataset.PixelData = len(pixels), pixels.astype("<i2").tobytes()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def file_of(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


RAMP = np.arange(-1000, 1000, 20, np.int16).reshape(10, 10)


def test_paths_bytes_and_data_sets_are_the_same_image() -> None:
    path = stored("CT_small.dcm")
    window = Window(40, 400)

    frames = [
        dicom.read(source).frame(1, window)
        for source in (path, str(path), path.read_bytes(), pydicom.dcmread(path))
    ]

    assert all(np.array_equal(each.image, frames[0].image) for each in frames)
    assert frames[0].image.shape == (128, 128)
    assert frames[0].record.window == "LINEAR center 40 width 400 (request), slope 1 intercept -1024"
    assert [each.name for each in frames[0].record.libraries] == ["pydicom"]


def test_the_window_is_the_requests_then_a_preset_then_the_objects_then_percentiles() -> None:
    own = ct(RAMP, WindowCenter=[40, -600], WindowWidth=[400, 1500], RescaleSlope=2, RescaleIntercept=-10)
    bare = ct(RAMP, RescaleSlope=2, RescaleIntercept=-10)
    instance = dicom.read(own)

    def window_of(choice: dicom.WindowChoice, source: dicom.Instance = instance) -> tuple[str, str]:
        applied = source.frame(1, choice).window
        assert applied is not None
        return applied.origin, str(applied.voi)

    assert window_of((30, 150)) == ("request", "LINEAR center 30 width 150")
    assert window_of("lung") == ("preset", "LINEAR center -600 width 1500")
    assert window_of(None) == ("dicom", "LINEAR center 40 width 400")
    assert window_of(2) == ("dicom", "LINEAR center -600 width 1500")
    assert window_of("percentile") == ("percentile", "LINEAR_EXACT center -30 width 3960")
    assert window_of(None, dicom.read(bare)) == ("percentile", "LINEAR_EXACT center -30 width 3960")


def test_eight_stored_bits_without_a_window_are_shown_by_their_percentiles() -> None:
    dataset = ct(RAMP)
    dataset.set_pixel_data(np.arange(50, 150, dtype=np.uint8).reshape(10, 10), "MONOCHROME2", 8)
    frame = dicom.read(dataset).frame(1)
    assert frame.window is not None
    assert (frame.window.origin, str(frame.window.voi)) == ("percentile", "LINEAR_EXACT center 99.5 width 99")
    assert (frame.image.min(), frame.image.max()) == (0, 255)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("liver lesion", "must be a window, or one of abdomen, bone"),
        (3, "must be from 1 to the 1 windows"),
        (True, "must be a window"),
        ((1, 2, 3), "must be a window"),
        ([40, 400], "must be a window"),
    ],
)
def test_a_window_that_cannot_be_is_refused(choice: object, words: str) -> None:
    instance = dicom.read(ct(RAMP, WindowCenter=0, WindowWidth=10))

    with pytest.raises(InvalidArgument, match=f"window: {words}"):
        instance.frame(1, choice)  # type: ignore[arg-type]


def test_a_preset_is_for_ct_and_colour_has_no_window() -> None:
    mr, colour = dicom.read(stored("MR_small.dcm")), dicom.read(stored("SC_rgb_rle.dcm"))

    with pytest.raises(InvalidArgument, match="Hounsfield units, for CT alone"):
        mr.frame(1, "brain")
    with pytest.raises(InvalidArgument, match="window: must be left out: a colour image has none"):
        colour.frame(1, (40, 400))
    assert colour.frame().window is None
    assert colour.frame().image.shape == (100, 100, 3)


@pytest.mark.parametrize("number", [0, 4, -1, True, 1.5, "1", None])
def test_frames_count_from_1_and_others_are_refused(number: object) -> None:
    instance = dicom.read(ct(np.stack([RAMP, RAMP + 1, RAMP + 2])))

    with pytest.raises(InvalidArgument, match="frame: must be a whole number from 1 to the 3 frames"):
        instance.frame(number)  # type: ignore[arg-type]


def test_each_frame_is_its_own_and_has_its_own_window() -> None:
    dataset = ct(np.stack([RAMP, RAMP, RAMP[::-1]]))
    groups = []
    for center in (0, 100, 0):
        voi, transform, frame = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 500
        transform.RescaleSlope, transform.RescaleIntercept = 1, 0
        frame.FrameVOILUTSequence, frame.PixelValueTransformationSequence = [voi], [transform]
        groups.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = groups
    instance = dicom.read(file_of(dataset))

    first, second, third = (instance.frame(number) for number in (1, 2, 3))

    assert str(second.window) == "LINEAR center 100 width 500 (dicom), slope 1 intercept 0"
    assert not np.array_equal(first.image, second.image)
    assert np.array_equal(first.image, third.image[::-1])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(1, 16), st.booleans(), st.integers(0, 2**32 - 1))
def test_masks_on_square_pixels_come_back_exactly(
    rows: int, columns: int, ratio: float, tall: bool, seed: int
) -> None:
    shown = (round(rows * ratio), columns) if tall else (rows, round(columns * ratio))
    grid = Grid((rows, columns), shown)
    mask = np.random.default_rng(seed).random((rows, columns)) > 0.5

    assert np.array_equal(grid.to_stored(grid.from_stored(mask)), mask)
    assert grid.stretched(mask.view(np.uint8)).shape == shown


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({"PixelSpacing": [2, 1]}, (20, 10)),
        ({"PixelSpacing": [1, 1.5]}, (10, 15)),
        ({"PixelAspectRatio": [1, 2]}, (10, 20)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [3, 1]}, (30, 10)),
        ({"PixelSpacing": [0.7, 0.7]}, (10, 10)),
    ],
)
def test_pixels_that_are_not_square_are_made_so(attributes: dict[str, object], shape: tuple[int, int]) -> None:
    frame = dicom.read(ct(RAMP, **attributes)).frame()
    mask = np.zeros(shape, np.bool_)
    mask[shape[0] // 2 :] = True

    assert frame.image.shape == shape
    assert frame.to_stored(mask).tolist() == (np.arange(10)[:, None] >= 5).repeat(10, 1).tolist()
    with pytest.raises(InvalidArgument, match="mask: must be bool of"):
        frame.to_stored(mask[:-1])


def test_padding_is_black_and_monochrome1_is_turned_round() -> None:
    pixels = np.array([[-2000, 0, 100]], np.int16)
    plain = ct(pixels, PixelPaddingValue=-2000, WindowCenter=50, WindowWidth=101)
    turned = ct(pixels, PixelPaddingValue=-2000, WindowCenter=50, WindowWidth=101)
    turned.PhotometricInterpretation = "MONOCHROME1"

    assert dicom.read(plain).frame().image.tolist() == [[0, 1, 255]]
    assert dicom.read(turned).frame().image.tolist() == [[0, 254, 0]]


def test_a_deflated_object_is_read() -> None:
    dataset = ct(RAMP, WindowCenter=0, WindowWidth=500)
    plain = dicom.read(file_of(dataset)).frame()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflated = dicom.read(file_of(dataset))

    assert np.array_equal(deflated.frame().image, plain.image)


def test_nothing_that_is_shown_of_an_instance_names_a_patient() -> None:
    instance = dicom.read(ct(RAMP, PatientName="Doe^Jane", PatientID="0815"))

    shown = repr(instance) + repr(instance.frame())

    assert "Doe" not in shown
    assert "0815" not in shown
