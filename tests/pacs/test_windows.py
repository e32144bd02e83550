"""The grey levels of ``mediround.dicom`` against dcmtk's, over the corpora, with the window given explicitly.

Knows ``dcmj2pnm`` and ``dcml2pnm`` (JPEG-LS), and ``gdcmconv`` where dcmtk has no decoder (JPEG 2000). What is
compared and what is left out, with the reason, is printed (`-s`). dcmtk knows no pixel padding: those pixels are
not compared.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset

from mediround import MediRoundError, dicom
from mediround.window import Window
from tests.pacs import corpora
from tests.pacs.programs import program

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's, of odd files

LOSSLESS, LOSSY = 1, 3
"""Grey levels."""
AT_LEAST = 60
_LOSSY = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000}
_JPEG_2000 = {uid.JPEG2000, uid.JPEG2000Lossless}
_JPEG_LS = {uid.JPEGLSLossless, uid.JPEGLSNearLossless}
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


@dataclass(frozen=True)
class Comparison:
    name: str
    syntax: uid.UID
    difference: int
    pixels: int

    @property
    def allowed(self) -> int:
        return LOSSY if self.syntax in _LOSSY or self.name in TWO_OFF else LOSSLESS


DCMTKS_OWN = {
    "pydicom/SC_rgb_rle_32bit.dcm": "data_store/SC_rgb_32bit.dcm",
    "pydicom/SC_rgb_rle_32bit_2frame.dcm": "data_store/SC_rgb_32bit_2frame.dcm",
    "pydicom/rtdose_expb.dcm": "pydicom/rtdose.dcm",
    "pydicom/rtdose_expb_1frame.dcm": "pydicom/rtdose_1frame.dcm",
}
"""Of 32 bits, which dcmtk reads otherwise than the same image in plain little endian: that one is the measure."""
TWO_OFF = {"data_store/SC_ybr_full_uncompressed.dcm"}
"""dcmtk is 2 levels from PS3.3 C.7.6.3.1.2's formula, ours 0."""


class LeftOut(Exception):  # no error
    """Why an object is not compared."""


def test_grey_levels_are_dcmtks(tmp_path: Path) -> None:
    for name in ("dcmj2pnm", "gdcmconv"):
        program(name)
    compared, left_out = list[Comparison](), Counter[str]()
    made = corpora.dummies(tmp_path / "made")
    for name, dataset in [*corpora.files(), *made, *corpora.tiles()]:
        try:
            compared.append(compare(name, dataset, tmp_path))
        except LeftOut as reason:
            left_out[str(reason)] += 1
    for each in compared:
        print(f"{each.difference} of {each.allowed}: {each.name} ({each.syntax.name})")
    print(f"{len(compared)} compared; left out: {dict(left_out)}")

    assert [each for each in compared if each.difference > each.allowed] == []
    assert {name for name, _ in made} < {each.name for each in compared}
    assert len(compared) >= AT_LEAST
    assert len({each.syntax for each in compared}) >= 10


def compare(name: str, source: Path | Dataset, folder: Path) -> Comparison:
    dataset = pydicom.dcmread(source) if isinstance(source, Path) else source
    for keyword in _SPACINGS:  # on Rows x Columns: dcmtk is not asked to scale
        dataset.pop(keyword, None)
    try:
        instance = dicom.read(dataset)
        shown = instance.frame(instance.frames)
        window = None if shown.window is None else plain(shown.window.voi)
        ours = instance.frame(instance.frames, window)
    except MediRoundError as error:
        raise LeftOut(f"not read: {type(error).__name__}") from None
    if not ours.grid.square:
        raise LeftOut("pixels that are not square")
    if name in DCMTKS_OWN:
        theirs = dicom.read(dict(corpora.files())[DCMTKS_OWN[name]]).frame(ours.number, window).image
    else:
        theirs = dcmtk(dataset, source, ours.number, window, folder)
    if theirs.shape != ours.image.shape:
        raise LeftOut("dcmtk gives another shape")
    differences = np.abs(theirs.astype(int) - ours.image)[~padded(dataset, ours)]
    syntax = dataset.file_meta.TransferSyntaxUID
    return Comparison(name, syntax, int(differences.max(initial=0)), differences.size)


def plain(voi: Any) -> Window:
    """A LINEAR window, as `+Ww` takes it."""
    if not isinstance(voi, Window):
        return Window(1024, 2048)
    return Window(round(voi.center), max(round(voi.width), 2))


def padded(dataset: Dataset, frame: dicom.Frame) -> npt.NDArray[np.bool_]:
    if "PixelPaddingValue" not in dataset:
        return np.zeros(frame.image.shape, np.bool_)
    return frame.image == 0


def dcmtk(
    dataset: Dataset, source: Path | Dataset, number: int, window: Window | None, folder: Path
) -> npt.NDArray[np.uint8]:
    path = source if isinstance(source, Path) else folder / "in.dcm"
    if not isinstance(source, Path):
        dataset.save_as(path, enforce_file_format=True)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _JPEG_2000:
        raw = folder / "raw.dcm"
        run([program("gdcmconv"), "--raw", str(path), str(raw)], "gdcmconv does not read it")
        path = raw
    out = folder / "out.pnm"
    out.unlink(missing_ok=True)
    reader = "dcml2pnm" if syntax in _JPEG_LS else "dcmj2pnm"
    options = ["-O", "+op", "+F", str(number)]
    if window is not None:
        options += ["+Wfl", "+Ww", str(window.center), str(window.width)]
    run([program(reader), *options, str(path), str(out)], "dcmtk does not read it")
    with Image.open(out) as image:
        return np.asarray(image)


def run(command: list[str], reason: str) -> None:
    ran = subprocess.run(command, check=False, capture_output=True, timeout=60)
    if ran.returncode != 0 or not Path(command[-1]).exists():
        raise LeftOut(reason)


def _table(first: int, entries: list[int], bits: int) -> Dataset:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    table.add_new("LUTData", "US", entries)
    return table


def _modality_table(dataset: Dataset) -> None:
    table = _table(100, [min(each * 4, 4095) for each in range(1024)], 12)
    table.ModalityLUTType = "US"
    dataset.ModalityLUTSequence = [table]
    del dataset.RescaleSlope, dataset.RescaleIntercept


def _voi_table(dataset: Dataset) -> None:
    entries = np.rint(np.sqrt(np.linspace(0, 1, 1000)) * 65535).astype(int)
    dataset.VOILUTSequence = [_table(200, entries.tolist(), 16)]
    dataset.RescaleIntercept = 0


@pytest.mark.parametrize(
    ("changes", "options", "window"),
    [
        ([_voi_table], ["+Wl", "1"], None),
        ([_modality_table], ["+Wfl", "+Ww", "1500", "2500"], Window(1500, 2500)),
        ([_modality_table, _voi_table], ["+Wl", "1"], None),
        ([], ["+Wfs", "+Ww", "40", "400"], Window(40, 400, "SIGMOID")),
    ],
    ids=["VOI LUT", "modality LUT", "both", "SIGMOID"],
)
def test_tables_and_the_sigmoid_are_dcmtks(
    changes: list[Callable[[Dataset], None]], options: list[str], window: Window | None, tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(dict(corpora.files())["pydicom/CT_small.dcm"])
    for keyword in ("PixelPaddingValue", *_SPACINGS):
        dataset.pop(keyword, None)
    for change in changes:
        change(dataset)
    path, out = tmp_path / "in.dcm", tmp_path / "out.pnm"
    dataset.save_as(path)
    run([program("dcmj2pnm"), "-O", "+op", *options, str(path), str(out)], "dcmtk does not read it")
    with Image.open(out) as image:
        theirs = np.asarray(image)
    ours = dicom.read(path).frame(1, window).image
    assert np.ptp(theirs) > 100
    assert np.abs(theirs.astype(int) - ours).max() <= LOSSLESS
