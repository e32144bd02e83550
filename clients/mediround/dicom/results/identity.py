"""UIDs that say again what they said before, and dates that are the source's.

The same result of the same series gets the same UIDs, so that sending it twice changes nothing; another mask,
model or parameter gets others, because an archive may keep the object that it has and report success.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable

from pydicom.dataset import Dataset
from pydicom.uid import UID

from mediround import __version__, masks
from mediround.dicom.attributes import text
from mediround.dicom.results.segments import Provenance, Segment
from mediround.dicom.results.terms import Term

_NAMESPACE = uuid.UUID("5b1c1bb9-8c4e-5a0a-9f0e-6d64726f756e")
_NO_DATE, _NO_TIME = "19000101", "000000"
"""Of results whose source has no date at all: the attributes must have a value."""


def uid(*parts: str) -> UID:
    """A UID of these words: 2.25 and a UUID of version 5 (PS3.5, B.2)."""
    hashed = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        hashed.update(len(encoded).to_bytes(8) + encoded)
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, hashed.hexdigest()).int}")


def run_words(source: Dataset, provenance: Provenance) -> tuple[str, ...]:
    """What the dialogue is known by: its series, its run, its model."""
    return text(source, "SeriesInstanceUID"), provenance.run, provenance.model_digest


def content_digest(segments: Iterable[Segment], terms: Iterable[Term], provenance: Provenance) -> str:
    """SHA-256, hex, of all that an object says: masks, words, scores, parameters."""
    hashed = hashlib.sha256(f"{__version__}\0{provenance.engine_digest}".encode())
    for name, value in sorted(provenance.parameters.items()):
        hashed.update(repr((name, value)).encode("utf-8", "surrogatepass"))
    for segment, term in zip(segments, terms, strict=True):
        words = (segment.label, segment.round, segment.score, segment.corrected, segment.origin.value, term)
        hashed.update(repr(words).encode("utf-8", "surrogatepass"))
        for key in sorted(segment.masks):
            hashed.update(repr(key).encode() + masks.digest(segment.masks[key]))
    return hashed.hexdigest()


def tracking_uid(source: Dataset, provenance: Provenance, round_index: int) -> UID:
    """Of a round's structure: the same in a revised result, which is about the same structure."""
    return uid("tracking", *run_words(source, provenance), str(round_index))


def source_date(source: Dataset) -> tuple[str, str]:
    """Date and time (DA, TM) of the source: a result has no clock of its own, so its bytes can be repeated."""
    for name in ("Acquisition", "Content", "Series", "Study"):
        date, time = text(source, f"{name}Date"), text(source, f"{name}Time")
        if re.fullmatch(r"[0-9]{4}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])", date):
            known = re.fullmatch(r"([01][0-9]|2[0-3])[0-5][0-9][0-5][0-9](\.[0-9]{1,6})?", time)
            return date, time if known else _NO_TIME
    return _NO_DATE, _NO_TIME
