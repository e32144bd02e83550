"""The golden form: a directory with a data set in the MR-MedSeg form and what was recorded of its dialogues.

Knows the names of recorded arrays, and who recorded them: the published code (golden vectors), or this project's
own engines (a regression set). Does not know the data set's tokens (``mediround.medseg``), nor how anything is
computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile
from PIL import Image

from exporters.errors import UnsupportedSourceError
from mediround.medseg import parse, read_items
from serving.domain import AnswerMode, Question

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
IMAGE_PLACEHOLDER = -200
"""Stands for the image in recorded token ids."""
ARRAYS, DIALOGUES = "expected.npz", "dataset/dialogues.json"
_ORIGIN = "origin"
"""Of ``ARRAYS``: who recorded them, as JSON. The published code's have none."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What recorded a regression set."""

    model: str
    """Name and version."""
    model_digest: str
    engines: tuple[str, str]
    """What ran the language half and the vision half."""

    def words(self) -> str:
        """What must be known of such a set, for people."""
        return (
            f"REGRESSION SET, not golden: recorded by this project's own engines ({', '.join(self.engines)}) from "
            f"{self.model}, digest {self.model_digest}. It shows whether results have changed since, not whether "
            "they are those of the published code."
        )


@dataclass(frozen=True, slots=True)
class RecordedRound:
    """What was computed in one round; None where nothing was recorded."""

    feature: npt.NDArray[np.float32]
    """(256,), as decoded."""
    raw_feature: npt.NDArray[np.float32] | None
    score: float | None
    mask: npt.NDArray[np.bool_]
    """(H, W)."""
    box: npt.NDArray[np.floating[Any]] | None
    """(4,), normalised, of this round's mask."""
    crop: tuple[int, int, int, int] | None
    """row0, column0, row1, column1 of the crop of this round's mask; upper bounds exclusive."""


@dataclass(frozen=True, slots=True)
class RecordedDialogue:
    index: int
    rgb: npt.NDArray[np.uint8]
    """(H, W, 3)."""
    questions: tuple[Question, ...]
    token_ids: tuple[int, ...]
    rounds: tuple[RecordedRound, ...]


def read_golden(directory: Path) -> Iterator[RecordedDialogue]:
    """Every dialogue of the directory, in order.

    Raises:
        UnsupportedSourceError: the directory is not in the golden form.
        DataError: its data set is not in the MR-MedSeg form.
    """
    with _arrays(directory) as recorded:
        for index, item in enumerate(read_items(directory / DIALOGUES)):
            dialogue = parse(item)
            rgb = np.asarray(Image.open((directory / DIALOGUES).parent / dialogue.image).convert("RGB"))
            questions = tuple(
                Question(asked.question, asked.refer_to, AnswerMode.FORCED, asked.answer)
                for asked in dialogue.rounds
            )
            try:
                ids = tuple(recorded[f"d{index}_input_ids"].ravel().tolist())
                rounds = tuple(_round(recorded, f"d{index}_r{k}_") for k in range(len(questions)))
            except KeyError as error:
                raise UnsupportedSourceError(
                    f"{directory / ARRAYS} has not recorded all of dialogue {index}: {error.args[0]}. "
                    f"Is its {DIALOGUES} the one that was recorded?"
                ) from None
            yield RecordedDialogue(index, rgb, questions, ids, rounds)


def read_origin(directory: Path) -> Origin | None:
    """What recorded a regression set; None: these are golden vectors, of the published code.

    Raises:
        UnsupportedSourceError: the directory is not in the golden form.
    """
    with _arrays(directory) as recorded:
        if _ORIGIN not in recorded:
            return None
        said = json.loads(str(recorded[_ORIGIN]))
    return Origin(said["model"], said["model_digest"], tuple(said["engines"]))


def dialogue_arrays(dialogue: int, token_ids: Sequence[int], rounds: Sequence[RecordedRound]) -> Arrays:
    """One dialogue's arrays by name, as ``read_golden`` reads them."""
    arrays: Arrays = {f"d{dialogue}_input_ids": np.array(token_ids, np.int64)}
    for index, recorded in enumerate(rounds):
        arrays |= _named(recorded, f"d{dialogue}_r{index}_")
    return arrays


def write_arrays(directory: Path, arrays: Arrays, origin: Origin) -> None:
    """What was recorded, beside a data set that is there already: a regression set by ``origin``."""
    named: dict[str, Any] = {**arrays, _ORIGIN: np.array(json.dumps(asdict(origin)))}
    np.savez_compressed(directory / ARRAYS, **named)


def _arrays(directory: Path) -> NpzFile:
    for needed in (directory / ARRAYS, directory / DIALOGUES):
        if not needed.is_file():
            raise UnsupportedSourceError(f"{needed} is missing: --golden names a directory in the golden form.")
    try:
        return np.load(directory / ARRAYS)  # type: ignore[no-any-return]  # NumPy does not say which of its kinds
    except (OSError, ValueError, BadZipFile) as error:
        raise UnsupportedSourceError(f"{directory / ARRAYS} cannot be read ({error}).") from error


def _named(recorded: RecordedRound, prefix: str) -> Arrays:
    """One round's arrays; what was not recorded is left out."""
    named = {
        "feature": recorded.feature,
        "raw_feature": recorded.raw_feature,
        "score": None if recorded.score is None else np.array(recorded.score),
        "mask_packed": np.packbits(recorded.mask),
        "shape": np.array(recorded.mask.shape),
        "bbox": recorded.box,
        "crop_box_rc": None if recorded.crop is None else np.array(recorded.crop),
    }
    return {prefix + name: values for name, values in named.items() if values is not None}


def _round(recorded: Mapping[str, npt.NDArray[Any]], prefix: str) -> RecordedRound:
    def optional(name: str) -> npt.NDArray[Any] | None:
        return recorded.get(prefix + name)

    height, width = recorded[f"{prefix}shape"].tolist()
    packed, score, crop = recorded[f"{prefix}mask_packed"], optional("score"), optional("crop_box_rc")
    return RecordedRound(
        feature=recorded[f"{prefix}feature"].ravel(),
        raw_feature=None if (raw := optional("raw_feature")) is None else raw.ravel(),
        score=None if score is None else float(score.item()),
        mask=np.unpackbits(packed.ravel(), count=height * width).reshape(height, width).astype(np.bool_),
        box=None if (box := optional("bbox")) is None else box.ravel(),
        crop=None if crop is None else tuple(crop.ravel().tolist()),
    )
