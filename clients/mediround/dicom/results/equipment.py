"""What every result says of itself: what made it, when, and that it is no diagnosis.

Knows our words. Does not know what kind of object it is.
"""

from __future__ import annotations

from typing import TypedDict

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode

from mediround import __version__
from mediround.dicom.results.identity import run_words, source_date, uid
from mediround.dicom.results.segments import Provenance
from mediround.dicom.results.terms import Code

MANUFACTURER = "MediRound"
DISCLAIMER = "AI, not for diagnosis"
"""In every series' description."""
_MOST_CHARACTERS = 64
"""Of a long string (LO)."""
_MOST_PARAMETERS = 10_240
"""Characters of a long text (LT)."""


class Equipment(TypedDict):
    """Arguments of highdicom's objects."""

    manufacturer: str
    manufacturer_model_name: str
    software_versions: str
    device_serial_number: str


def equipment(provenance: Provenance) -> Equipment:
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": long_string(provenance.model_name),
        "software_versions": long_string(provenance.model_version),
        "device_serial_number": long_string(provenance.engine_digest or provenance.model_digest),
    }


def algorithm(provenance: Provenance) -> hd.AlgorithmIdentificationSequence:
    """The model as a segment names it."""
    return hd.AlgorithmIdentificationSequence(
        name=long_string(provenance.model_name),
        version=long_string(provenance.model_version),
        family=codes.DCM.ArtificialIntelligence,
        source=MANUFACTURER,
        parameters=parameters(provenance),
    )


def parameters(provenance: Provenance) -> dict[str, str]:
    """How it was computed: the engine record's and the image's, as far as they fit."""
    found = {"model_digest": provenance.model_digest, "engine_digest": provenance.engine_digest}
    return {name: value for name, value in (found | dict(provenance.parameters)).items() if value}


def long_string(text: str) -> str:
    """What a long string (LO) may hold of it: 64 characters, none of control, no backslash; ``?`` for nothing."""
    kept = "".join(character if character.isprintable() and character != "\\" else " " for character in text)
    return kept.encode("utf-8", "replace").decode()[:_MOST_CHARACTERS].strip() or "?"


def stamp(built: Dataset, source: Dataset, provenance: Provenance, kind: str) -> None:
    """Dates and places that highdicom takes from the clock or by chance."""
    date, time = source_date(source)
    built.InstanceCreationDate = built.ContentDate = built.SeriesDate = date
    built.InstanceCreationTime = built.ContentTime = built.SeriesTime = time
    built.SoftwareVersions = [built.SoftwareVersions, long_string(f"client {__version__}")]
    built.SeriesDescription = f"{DISCLAIMER}: {kind}"
    for item in built.get("ContributingEquipmentSequence") or []:
        item.ContributionDateTime = date + time
    organization = uid("dimensions", *run_words(source, provenance), str(built.SOPInstanceUID))
    for sequence in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in built.get(sequence) or []:
            item.DimensionOrganizationUID = organization


def coded(code: Code) -> PydicomCode:
    """The code as highdicom takes it."""
    return PydicomCode(code.value, code.scheme, code.meaning)
