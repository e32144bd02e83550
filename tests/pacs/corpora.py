"""DICOM objects of others: files of pydicom, pydicom-data, nibabel and deid-data, wsidicom-data's tiles, and what
medimages4tests makes.

Knows where the packages keep them and how a bare tile becomes an object. Nothing is committed, nothing downloaded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

FOLDERS = (
    "pydicom.data.test_files",
    "data_store.data",
    "nibabel.nicom.tests.data",
    "nibabel.tests.data",
    "deid_data",
)
_TILE = re.compile(r"(?P<syntax>.+)-(?P<kind>GRAYSCALE|RGB|YBR)-(?P<bits>\d+)$")
_SYNTAXES = {each.name: each for each in map(uid.UID, uid.AllTransferSyntaxes)}


def folder(package: str) -> Path:
    """Of a package, by its dotted name; also where its last parts are plain folders."""
    head, *rest = package.split(".")
    spec = find_spec(head)
    assert spec is not None, f"{head} is not installed: make debian env-export"
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)), *rest)


def files() -> list[tuple[str, Path]]:
    """Part 10 files by a short name, in a fixed order."""
    return [
        (f"{package.split('.')[0]}/{path.relative_to(folder(package))}", path)
        for package in FOLDERS
        for path in sorted(folder(package).rglob("*"))
        if path.is_file() and _is_part10(path)
    ]


def tiles() -> Iterator[tuple[str, Dataset]]:
    """wsidicom-data's encoded tiles, one a transfer syntax, as objects."""
    place = folder("wsidicom_data.data")
    with Image.open(place / "test_tile.png") as tile:
        columns, rows = tile.size
    for path in sorted((place / "encoded").iterdir()):
        if (match := _TILE.match(path.stem.replace("_", " "))) and match["syntax"] in _SYNTAXES:
            syntax, bits = _SYNTAXES[match["syntax"]], int(match["bits"])
            yield f"wsidicom/{path.name}", _tile(path.read_bytes(), syntax, match["kind"], bits, (rows, columns))


def dummies(directory: Path) -> list[tuple[str, Path]]:
    """The first object of each series that medimages4tests makes: headers of scanners, pixels of one value."""
    package = "medimages4tests.dummy.dicom"
    place, made = folder(package), list[tuple[str, Path]]()
    # Its downloads want openneuro, which brings a web of packages; what is made here downloads nothing.
    with patch.dict(sys.modules, {"openneuro": ModuleType("openneuro")}):
        for path in sorted(place.rglob("*.py")):
            if path.name in ("__init__.py", "base.py"):
                continue
            parts = path.relative_to(place).with_suffix("").parts
            module = import_module(".".join((package, *parts)))
            with patch.object(module, "num_vols", 1):
                [file] = module.get_image(directory / "-".join(parts)).iterdir()
            made.append((f"medimages4tests/{'/'.join(parts)}", file))
    return made


def _is_part10(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _tile(payload: bytes, syntax: uid.UID, kind: str, bits: int, size: tuple[int, int]) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "2.25.1"
    dataset.Rows, dataset.Columns = size
    dataset.SamplesPerPixel = 1 if kind == "GRAYSCALE" else 3
    dataset.PhotometricInterpretation = {"GRAYSCALE": "MONOCHROME2", "RGB": "RGB", "YBR": "YBR_FULL"}[kind]
    if syntax == uid.JPEGLossless and kind == "YBR":
        dataset.PhotometricInterpretation = "RGB"  # which it holds, whatever it is called
    if kind == "YBR" and "2000" in syntax.name:
        dataset.PhotometricInterpretation = "YBR_RCT" if syntax == uid.JPEG2000Lossless else "YBR_ICT"
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 if bits == 8 else 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
    dataset.PixelData = encapsulate([payload]) if syntax.is_encapsulated else payload
    dataset["PixelData"].VR = "OB" if syntax.is_encapsulated or bits == 8 else "OW"
    return dataset
