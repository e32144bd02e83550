"""What was found on a stack, collected frame by frame: masks as run lengths, and all the rest as it is reported.

Knows results and what is written of them. Does not know files or terminals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from mediround import masks, rle
from mediround._description import ServerDescription
from mediround.dicom.results import FrameKey, Origin, Provenance, Segment
from mediround.dicom.series.stack import Stack
from mediround.dicom.volume.answers import FrameAnswer, FrameResult
from mediround.templates import Template

Bits = npt.NDArray[np.bool_]


class PackedMasks(Mapping[FrameKey, Bits]):
    """Masks by frame, held as run lengths: a hundredth of their pixels; made anew each time."""

    def __init__(self) -> None:
        self._packed: dict[FrameKey, tuple[bytes, int, int]] = {}

    def add(self, key: FrameKey, mask: Bits) -> None:
        self._packed[key] = rle.encode(mask), *mask.shape

    def __getitem__(self, key: FrameKey) -> Bits:
        return rle.decode(*self._packed[key])

    def __iter__(self) -> Iterator[FrameKey]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


@dataclass(slots=True)
class QuestionRecord:
    """One question over all frames.

    Attributes:
        statuses: how many frames ended so.
        marks: by the frame's index.
    """

    label: str
    masks: PackedMasks = field(default_factory=PackedMasks)
    scores: list[float] = field(default_factory=list)
    corrected: bool = False
    statuses: dict[str, int] = field(default_factory=lambda: {"mask": 0, "given": 0, "no_mask": 0, "not_asked": 0})
    marks: dict[int, str] = field(default_factory=dict)

    def add(self, result: FrameResult, answer: FrameAnswer) -> None:
        self.statuses[answer.status] += 1
        self.corrected |= answer.corrected
        if answer.mark:
            self.marks[result.index] = answer.mark
        if answer.score is not None:
            self.scores.append(answer.score)
        if answer.mask is not None and answer.mask.any():
            self.masks.add((result.frame.sop_instance_uid, result.frame.number), answer.mask)

    @property
    def origin(self) -> Origin:
        if not self.statuses["given"]:
            return Origin.AUTOMATIC
        return Origin.SEMIAUTOMATIC if self.statuses["mask"] else Origin.MANUAL

    @property
    def middle_score(self) -> float | None:
        return median(self.scores) if self.scores else None

    @property
    def lowest_score(self) -> float | None:
        return min(self.scores, default=None)


@dataclass(slots=True)
class StackRecord:
    """A stack's results so far.

    Attributes:
        asked: how many frames were to be asked.
        complete: whether all of them were, whatever came of them.
        failures: by the frame's index: the error's name and words.
    """

    number: int
    stack: Stack
    template: Template
    follow: bool
    asked: int
    complete: bool = False
    questions: list[QuestionRecord] = field(default_factory=list)
    frames: dict[int, dict[str, Any]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    windows: set[str] = field(default_factory=set)
    engines: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.questions = [QuestionRecord(each.label) for each in self.template.questions]

    def add(self, result: FrameResult) -> None:
        """Take in what a frame's result says, without its masks' pixels."""
        self.frames[result.index] = _plain(result)
        if result.error is not None:
            self.failures[result.index] = words_of(result.error)
            return
        self.windows.add("none" if result.window is None else str(result.window))
        for question, answer in zip(self.questions, result.answers, strict=True):
            question.add(result, answer)
            if answer.engine_digest:
                self.engines.add(answer.engine_digest)

    @property
    def incomplete(self) -> str:
        """How much of it is known, in words; empty where all of it is."""
        return "" if self.complete else f"{len(self.frames)} of {self.asked} frames"

    @property
    def segments(self) -> list[Segment]:
        """One for each question; its score is the lowest of its frames."""
        return [
            Segment(
                label=each.label,
                masks=each.masks,
                round=index,
                score=each.lowest_score,
                corrected=each.corrected,
                origin=each.origin,
            )
            for index, each in enumerate(self.questions)
        ]

    def provenance(self, served: ServerDescription) -> Provenance:
        """The same for the same template, asked in the same way of the same model; of a part, it says so."""
        run = f"{self.template.digest} {'follow' if self.follow else 'alone'}"
        window = next(iter(self.windows)) if len(self.windows) == 1 else "of each frame"
        parameters = {"template": self.template.name, "template_digest": self.template.digest, "window": window}
        if self.incomplete:
            parameters["incomplete"] = self.incomplete
        for record in served.engine_records:
            if self.engines == {record.digest}:
                return Provenance.of_record(run, record, **parameters)
        return Provenance(
            run=run,
            model_name=served.model_name,
            model_version=served.model_version,
            model_digest=served.model_digest,
            engine_digest=next(iter(self.engines)) if len(self.engines) == 1 else "",
            parameters=parameters,
        )

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, frames in the stack's order. Masks are named by their digests."""
        stack = self.stack
        return {
            "stack": self.number,
            "modality": stack.modality,
            "plane": stack.plane,
            "order": stack.order,
            "spacing": stack.spacing,
            "gaps": [[gap.after, gap.distance, gap.missing] for gap in stack.gaps],
            "notes": list(stack.notes),
            "template": self.template.name,
            "template_digest": self.template.digest,
            "complete": self.complete,
            "frames": [self.frames[index] for index in sorted(self.frames)],
        }


def _plain(result: FrameResult) -> dict[str, Any]:
    place = result.frame
    return {
        "index": result.index,
        "sop_instance_uid": place.sop_instance_uid,
        "frame": place.number,
        "instance_number": place.instance_number,
        "location": place.location,
        "window": None if result.window is None else str(result.window),
        "follows": result.follows,
        "restarted": result.restarted,
        "error": None if result.error is None else words_of(result.error),
        "answers": [_plain_answer(answer) for answer in result.answers],
    }


def _plain_answer(answer: FrameAnswer) -> dict[str, Any]:
    return {
        "name": answer.name,
        "status": answer.status,
        "words": answer.words,
        "area": 0 if answer.mask is None else int(answer.mask.sum()),
        "mask_digest": "" if answer.mask is None else masks.digest(answer.mask).hex(),
        "score": answer.score,
        "corrected": answer.corrected,
        "mark": answer.mark,
        "model_digest": answer.model_digest,
        "engine_digest": answer.engine_digest,
    }


def words_of(error: Exception) -> str:
    """An OSError's own words name the file."""
    kind = type(error).__name__
    return f"{kind}: the file cannot be read" if isinstance(error, OSError) else f"{kind}: {error}"
