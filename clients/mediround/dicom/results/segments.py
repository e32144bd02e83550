"""What is written: structures over the frames of a series, and what found them.

Knows values alone. Does not know DICOM objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from mediround._records import EngineRecord, RuntimeRecord
from mediround.dicom.results.terms import Term

Bits = npt.NDArray[np.bool_]
FrameKey = tuple[str, int]
"""A frame of a source: the SOP Instance UID of its object, and its number there, counted from 1."""


class Origin(Enum):
    """Where a structure's masks come from, in DICOM's words (Segment Algorithm Type)."""

    AUTOMATIC = "AUTOMATIC"
    """The model drew all."""
    SEMIAUTOMATIC = "SEMIAUTOMATIC"
    """The model drew some, a person others (``RoundResult.amended`` or ``seeded``)."""
    MANUAL = "MANUAL"
    """A person drew all."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One structure: what a round of the dialogue answered, over all frames that were asked.

    Attributes:
        label: the phrase that asked for it, or its name; the first 64 characters are kept.
        masks: of each frame where it was found, bool (Rows, Columns) on the stored grid. A mask without a pixel
            is left out. None at all: it was looked for and not found, and only the report says so.
        round: zero-based index of the round in its dialogue.
        score: the judge's estimate of the masks' IoU, 0 to 1; over several frames, what stands for all.
        corrected: whether the corrector replaced a feature that a mask was drawn from.
        origin: whether the model drew it, or a person.
        term: what it is, coded; None: what the table of terms knows by its label.
    """

    label: str
    masks: Mapping[FrameKey, Bits] = field(repr=False)
    round: int = 0
    score: float | None = None
    corrected: bool = False
    origin: Origin = Origin.AUTOMATIC
    term: Term | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """What found the structures, as every object says it.

    Attributes:
        run: names the dialogue for good, for example its session's id: the same run over the same series writes
            objects of the same UIDs. It enters the UIDs as a digest alone.
        model_name: the bundle's name.
        model_version: the bundle's version.
        model_digest: SHA-256 of the bundle's manifest, hex.
        engine_digest: of the engine record, hex; empty where it is not known.
        parameters: how it was computed, by name: engines, precision, window.
    """

    run: str
    model_name: str
    model_version: str
    model_digest: str
    engine_digest: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_record(cls, run: str, record: EngineRecord, **parameters: str) -> Provenance:
        """From what the server says computed the rounds (``client.describe().engine_records``).

        ``parameters`` are further ones, for example ``window`` and ``decoder`` of the image.
        """
        names = ("language", "image_encoder", "mask_decoder")
        known = {name: words for name in names if (words := _words(getattr(record, name)))}
        pixels = " ".join(f"{library.name} {library.version}" for library in record.pixels.libraries)
        return cls(
            run=run,
            model_name=record.model_name,
            model_version=record.model_version,
            model_digest=record.model_digest,
            engine_digest=record.digest,
            parameters={"server": record.server_version, **known, "pixels": pixels} | parameters,
        )


def _words(part: RuntimeRecord) -> str:
    words = (part.engine, part.version, part.provider, part.precision, part.runner)
    threads = None if part.threads is None else f"{part.threads} threads"
    return " ".join(word for word in (*words, threads) if word)
