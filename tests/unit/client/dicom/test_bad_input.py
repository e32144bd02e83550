"""DICOM objects that cannot be: each is read, or refused by a typed error that names no value; no more is hurt.

Knows objects made here, and 2,000 seeded mutations of pydicom's own. Does not know what healthy objects look like.
"""

from __future__ import annotations

import copy
import logging
import os
import random
import resource
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from mediround import MediRoundError, dicom
from mediround.dicom import decoding, source
from mediround.dicom.errors import (
    BadAttribute,
    BadPixels,
    DicomError,
    NoImage,
    NotDicom,
    TooLarge,
    UnsupportedSyntax,
)
from tests.unit.client.test_dicom import RAMP, ct, file_of

NAME = "Doe^Jane"
LIMIT_MIB = 512
MUTATIONS = 2000
BASES = (
    "MR_small.dcm", "SC_rgb_small_odd_jpeg.dcm", "SC_rgb_small_odd.dcm", "JPEGLSNearLossless_08.dcm",
    "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm",
    "SC_rgb_jls_lossy_sample.dcm", "SC_rgb_jpeg_dcmtk.dcm", "rtdose_rle.dcm", "CT_small.dcm",
)  # fmt: skip


def data(name: str) -> bytes:
    return Path(str(get_testdata_file(name, download=False))).read_bytes()


def changed(**attributes: object) -> Callable[[], bytes]:
    """A CT image with attributes set, or taken away (None), and a name in it that nobody may see."""

    def make() -> bytes:
        dataset = ct(RAMP, PatientName=NAME)
        for keyword, value in attributes.items():
            if value is None:
                del dataset[keyword]
            elif isinstance(value, tuple):
                dataset.add_new(keyword, *value)
            else:
                setattr(dataset, keyword, value)
        return file_of(dataset)

    return make


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """Of explicit little endian, with a long length."""
    size = len(value) if length is None else length
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, size) + value


def with_element(extra: bytes) -> bytes:
    """A CT image with raw bytes before its pixel data."""
    whole = file_of(ct(RAMP, PatientName=NAME))
    at = whole.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    return whole[:at] + extra + whole[at:]


def nested(depth: int) -> bytes:
    opening = element(0x00540016, b"SQ", b"", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return with_element(opening * depth + closing * depth)


def of_class(kind: uid.UID) -> Callable[[], bytes]:
    return changed(SOPClassUID=kind, PixelData=None)


def with_syntax(syntax: str, frame: bytes = bytes(40)) -> bytes:
    dataset = ct(RAMP, PatientName=NAME)
    dataset.file_meta.TransferSyntaxUID, dataset.PixelData = uid.UID(syntax), encapsulate([frame])
    return file_of(dataset)


def private_syntax() -> bytes:
    name = uid.ExplicitVRLittleEndian.encode()
    return file_of(ct(RAMP, PatientName=NAME)).replace(name, b"1.2.3".ljust(len(name), b"\0"), 1)


def deflated() -> bytes:
    """2 MiB of zeros in 2 KiB."""
    dataset = ct(RAMP, PatientName=NAME)
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    dataset.add_new(0x00091010, "OB", bytes(2 << 20))
    return file_of(dataset)


def palette(segments: bytes) -> Callable[[], bytes]:
    colours = {
        f"{prefix}{channel}PaletteColorLookupTable{suffix}": value
        for channel in ("Red", "Green", "Blue")
        for prefix, suffix, value in (("", "Descriptor", [256, 0, 16]), ("Segmented", "Data", segments))
    }
    return changed(PhotometricInterpretation="PALETTE COLOR", **colours)


def lut(descriptor: list[int], entries: bytes) -> Dataset:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", descriptor)
    table.add_new("LUTData", "OW", entries)
    return table


REFUSED: dict[str, tuple[Callable[[], bytes], type[DicomError], str]] = {
    "no DICOM": (lambda: b"PNG" * 99, NotDicom, "'DICM' must stand at byte 128"),
    "nothing": (lambda: b"", NotDicom, "'DICM'"),
    "only a preamble": (lambda: bytes(128) + b"DICM", BadAttribute, "TransferSyntaxUID"),
    "half a header": (lambda: file_of(ct(RAMP))[:300], NotDicom, "truncated before its pixel data"),
    "half its pixels": (lambda: file_of(ct(RAMP))[:-90], BadPixels, "must have 200 bytes; it has 110"),
    "nested 1,000 deep": (lambda: nested(1000), NotDicom, "cannot be parsed as DICOM"),
    "a declared length of 4 GiB": (
        lambda: with_element(element(0x00540015, b"OB", b"x", 0xFFFFFFF0)), NotDicom, "truncated before"
    ),
    "Rows that are text": (changed(Rows=("LO", NAME)), BadAttribute, "Rows (0028,0010): must be a whole number"),
    "a slope that is text": (changed(RescaleSlope=("LO", NAME)), BadAttribute, "RescaleSlope"),
    "a slope of 0": (changed(RescaleSlope="0"), BadAttribute, "must not be 0"),
    "a window of width 0": (changed(WindowCenter="1", WindowWidth="0"), BadAttribute, "WindowWidth"),
    "centers without widths": (changed(WindowCenter=["1", "2"], WindowWidth="3"), BadAttribute, "as many values"),
    "an unknown window function": (
        changed(WindowCenter="1", WindowWidth="3", VOILUTFunction=NAME), BadAttribute, "VOILUTFunction"
    ),
    "no Rows": (changed(Rows=None), BadAttribute, "Rows (0028,0010): must be there"),
    "no BitsAllocated": (changed(BitsAllocated=None), BadAttribute, "BitsAllocated"),
    "no photometric": (changed(PhotometricInterpretation=None), BadAttribute, "PhotometricInterpretation"),
    "zero frames": (changed(NumberOfFrames="0"), BadAttribute, "NumberOfFrames"),
    "a billion frames": (changed(NumberOfFrames="1000000000"), BadAttribute, "NumberOfFrames"),
    "0x0 pixels": (changed(Rows=0, Columns=0), BadAttribute, "Rows (0028,0010): must be a whole number from 1"),
    "65535x65535 pixels": (changed(Rows=65535, Columns=65535), TooLarge, "must have at most"),
    "more bits stored than allocated": (changed(BitsStored=17), BadAttribute, "BitsStored"),
    "a high bit below the bits": (changed(HighBit=3), BadAttribute, "HighBit"),
    "12 bits allocated": (changed(BitsAllocated=12, BitsStored=12), BadAttribute, "BitsAllocated"),
    "two samples": (changed(SamplesPerPixel=2), BadAttribute, "SamplesPerPixel"),
    "more frames than pixels": (changed(NumberOfFrames="9"), BadPixels, "must have 1800 bytes"),
    "pixels as long as spaghetti": (changed(PixelSpacing=["100", "1"]), BadAttribute, "at most 16 times"),
    "a LUT that is too short": (
        changed(ModalityLUTSequence=[lut([9, 0, 16], bytes(4))]), BadAttribute, "as many entries"
    ),
    "a LUT of 99 bits": (changed(VOILUTSequence=[lut([2, 0, 99], bytes(4))]), BadAttribute, "LUTDescriptor"),
    "no pixel data": (changed(PixelData=None), NoImage, "it is CT Image Storage"),
    "an encapsulated PDF": (of_class(uid.EncapsulatedPDFStorage), NoImage, "it is Encapsulated PDF Storage"),
    "a structure set": (of_class(uid.RTStructureSetStorage), NoImage, "RT Structure Set Storage"),
    "a presentation state": (
        of_class(uid.GrayscaleSoftcopyPresentationStateStorage), NoImage, "Presentation State Storage"
    ),
    "a class that nobody knows": (of_class(uid.UID("1.2.3.4")), NoImage, "no known SOP class"),
    "a segmentation": (changed(SOPClassUID=uid.SegmentationStorage), NoImage, "the image that it refers to"),
    "a private syntax": (private_syntax, UnsupportedSyntax, "one of DICOM's"),
    "High-Throughput JPEG 2000": (lambda: with_syntax(uid.HTJ2K), UnsupportedSyntax, "gdcmconv --raw"),
    "a video": (lambda: with_syntax(uid.MPEG2MPML), UnsupportedSyntax, "no decoder reads MPEG2"),
    "compressed by its name alone": (lambda: with_syntax(uid.RLELossless), BadPixels, "no decoder reads"),
    "a deflated bomb": (deflated, TooLarge, "when it is inflated"),
    "a palette of gigabytes": (
        palette(struct.pack("<3H", 1, 65535, 0) * 4000), BadAttribute, "at most 65536 entries"
    ),
    "a palette of no known segments": (palette(b"\xff" * 32), BadAttribute, "segments of kind"),
    "a palette that is not there": (changed(PhotometricInterpretation="PALETTE COLOR"), BadAttribute, "complete"),
}  # fmt: skip

READ: dict[str, Callable[[], bytes]] = {
    "private junk": lambda: with_element(element(0x7FD10010, b"UN", b"\xff" * 999)),
    "ISO 2022 that ends in the middle": changed(
        SpecificCharacterSet=["", "ISO 2022 IR 87"], StudyDescription=("UN", b"\x1b$B\xff\xff")
    ),
    "GB18030": changed(SpecificCharacterSet="GB18030", StudyDescription="王小东"),
    "a character set that is not declared": changed(
        SpecificCharacterSet="ISO_IR 6", StudyDescription=("UN", b"\xe7\x8e\x8b")
    ),
    "a character set that does not exist": changed(SpecificCharacterSet="KLINGON"),
    "absurd dates": changed(StudyDate=("LO", "99999999"), PatientBirthDate=("LO", NAME)),
    "UIDs with leading zeros": changed(StudyInstanceUID="1.02.003", SOPInstanceUID="1.2.0003"),
    "a spacing of 0": changed(PixelSpacing=["0", "0"]),
    "excess bytes": lambda: file_of(ct(RAMP)) + bytes(100),
}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of what is written here
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_its_reason(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_INFLATED_BYTES", 1 << 20)
    make, kind, words = REFUSED[name]
    whole = make()
    caplog.clear()

    with caplog.at_level(logging.DEBUG), pytest.raises(DicomError) as caught:
        dicom.read(whole).frame(1)

    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert NAME not in str(caught.value)
    assert [each.field for each in caught.value.violations] == ["image"]
    assert str(copy.copy(caught.value)) == str(caught.value)
    assert caplog.text == ""


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", READ)
def test_what_is_odd_beside_the_pixels_is_read_in_silence(name: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = READ[name]()
    caplog.clear()

    with caplog.at_level(logging.DEBUG):
        frame = dicom.read(whole).frame(1, (0, 2000))

    assert np.array_equal(frame.image, dicom.read(ct(RAMP)).frame(1, (0, 2000)).image)
    assert caplog.text == ""


def test_a_data_set_without_its_syntax_says_what_to_set() -> None:
    dataset = ct(RAMP)
    del dataset.file_meta

    with pytest.raises(BadAttribute, match="TransferSyntaxUID"):
        dicom.read(dataset)


def test_a_file_that_changes_meanwhile_is_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "ct.dcm"
    path.write_bytes(file_of(ct(RAMP)))
    instance = dicom.read(path)
    path.write_bytes(file_of(ct(RAMP.repeat(2, 0))))

    with pytest.raises(BadPixels, match="changed after its header was read"):
        instance.frame(1)


def test_a_header_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_HEADER_READS", 20)

    with pytest.raises(TooLarge, match="attributes before the pixel data must be fewer"):
        dicom.read(file_of(ct(RAMP)))


def test_a_decoder_that_hangs_or_dies_takes_its_frame_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = dicom.read(data("SC_rgb_small_odd_jpeg.dcm"))
    whole = instance.frame(1).image
    process = decoding._PROCESS._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "DECODE_SECONDS", 0.5)
        with pytest.raises(BadPixels, match="failed on the frame, or took more than"):
            instance.frame(1)
    assert np.array_equal(instance.frame(1).image, whole)
    running = decoding._PROCESS._process
    assert running is not None
    assert running is not process
    running.kill()
    running.wait()
    assert np.array_equal(instance.frame(1).image, whole)


def mutated(whole: bytes, chance: random.Random) -> bytes:
    spoiled = bytearray(whole)
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        place = chance.randrange(132, min(len(spoiled), 6000) if chance.random() < 0.7 else len(spoiled))
        count = chance.randrange(1, 64)
        match chance.choice(["byte", "byte", "long", "short", "delete", "double", "cut"]):
            case "byte":
                spoiled[place] = chance.randrange(256)
            case "long":
                spoiled[place : place + 4] = struct.pack(
                    "<I", chance.choice([0xFFFFFFFF, 1 << 31, 0, 1 << 28, 999])
                )
            case "short":
                spoiled[place : place + 2] = struct.pack("<H", chance.choice([0, 1, 0xFFFF, 1 << 15, 999]))
            case "delete":
                del spoiled[place : place + count]
            case "double":
                spoiled[place:place] = spoiled[place : place + count]
            case "cut":
                del spoiled[max(place, 150) :]
        if len(spoiled) < 200:
            break
    return bytes(spoiled)


def test_no_mutation_crashes_hangs_or_eats_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame comes, or a typed error. What libraries in C do with it happens in a process of their own."""
    monkeypatch.setattr(decoding, "DECODE_SECONDS", 2.0)
    bases = [data(name) for name in BASES]
    before, read = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number in range(MUTATIONS):
        whole = mutated(bases[number % len(bases)], random.Random(number))  # noqa: S311  # nothing is secret here
        with suppress(MediRoundError):
            assert dicom.read(whole).frame(1).image.dtype == np.uint8
            read += 1

    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < LIMIT_MIB
    assert MUTATIONS // 10 < read < MUTATIONS * 9 // 10
