"""Dialogues as training rows: token ids, references, and what must be learnt at which position.

Knows how drawn rounds, a view's masks and the serving path's prompt form come together. Does not know
the networks. Masks shown as references are made imperfect, as a decoder's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from serving.domain import AnswerMode, Question, SourceImage
from serving.pixels.masks import pack_mask
from serving.prompt import PromptTemplate
from training.dialogues import TRAINING, Shows, dialogue, standalone
from training.features import GEOMETRY, Views, rgb
from training.language import TOWER, Row, Shown
from training.questions import Asked
from training.targets import NAMES
from training.vision import ASKABLE, SMALLEST, areas

Bits = NDArray[np.bool_]
NO_STRUCTURE = len(NAMES)
GIST_UNIT = 64.0


@dataclass(frozen=True, slots=True)
class Lesson:
    """A row and what it teaches; positions count in the expanded row."""

    row: Row
    spoken: tuple[bool, ...]
    """Which tokens the model has to say, image expanded."""
    segs: tuple[tuple[int, int], ...]
    """(position whose hidden state gives the feature, structure)."""
    boxes: tuple[tuple[int, int], ...]
    """(position of [BBOXINPUT], structure referred to)."""
    ends: tuple[tuple[int, int], ...]
    """(a question's last token, structure that answers it, or ``NO_STRUCTURE``)."""
    carried: tuple[float, ...]
    """For each of ``segs`` what its feature carries (``quality``)."""
    gist: NDArray[np.float32]
    """(2, 29) roots of the structures' areas in units of ``GIST_UNIT``; carried, NaN where unknown."""


class Script:
    """Turns rounds into token ids, by the serving path's own prompt form."""

    def __init__(self, form: PromptTemplate) -> None:
        self.form, self.tokens = form, form.manifest.tokens
        self._said: dict[str, tuple[int, ...]] = {}

    def prompt(self, asked: Asked, *, first: bool) -> tuple[int, ...]:
        """Up to where the model begins to answer."""
        question = Question(asked.text, asked.refer_to, AnswerMode.FREE)
        return self.form.turn(question, first=first).prompt

    def answer(self, asked: Asked) -> tuple[int, ...]:
        """The answer's ids as the model generates them and the service closes them."""
        said = self.said(asked.answer)
        segmented = asked.target is not None
        return self.form.close(said, segmented=segmented)[1]

    def said(self, words: str) -> tuple[int, ...]:
        """Ids of words that follow a question's closing mark."""
        if words not in self._said:
            mark = "x [/INST]"
            encode = self.form.tokenizer.encode
            self._said[words] = encode(f"{mark} {words}")[len(encode(mark)) :]
        return self._said[words]


@dataclass(frozen=True)
class Pictures:
    """Views as the language half sees them, prepared when first needed."""

    views: Views
    carried: NDArray[np.float32]
    """(N, 29), as in ``quality.Quality``."""

    @cached_property
    def _prepared(self) -> dict[int, SourceImage]:
        return {}

    @cached_property
    def _areas(self) -> NDArray[np.float64]:
        return np.stack([areas(labels) for labels in self.views.labels])

    def source(self, row: int) -> SourceImage:
        if row not in self._prepared:
            self._prepared[row] = GEOMETRY.source_image(rgb(self.views.images[row]))
        return self._prepared[row]

    @cached_property
    def usable(self) -> list[int]:
        """Rows that show something to ask for."""
        return [row for row in range(len(self.views.z)) if self.askable(row)]

    def askable(self, row: int) -> list[int]:
        return [int(k) for k in np.flatnonzero(self._areas[row] >= ASKABLE)]

    def referable(self, row: int) -> list[int]:
        return [int(k) for k in np.flatnonzero(self._areas[row] >= SMALLEST)]

    def shows(self, row: int) -> Shows:
        return Shows(self.askable(row), [int(k) for k in np.flatnonzero(self._areas[row] == 0)])

    def gist(self, row: int) -> NDArray[np.float32]:
        sizes = np.sqrt(self._areas[row]) / GIST_UNIT
        return np.stack([sizes.astype(np.float32), self.carried[row]])

    def mask(self, row: int, target: int) -> Bits:
        return np.asarray(self.views.labels[row] & np.uint32(1 << target), np.bool_)


def shown(source: SourceImage, bits: Bits) -> Shown:
    """A mask as a later round sees it."""
    reference = GEOMETRY.reference(source, pack_mask(bits), 0)
    return Shown(reference.crop, reference.box)


def imperfect(bits: Bits, random: np.random.Generator) -> Bits:
    """Errors like a decoder's: swollen, shrunk, shifted, with a bite or a blob."""
    if random.random() < 0.25:
        return bits
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * int(random.integers(1, 4)) + 1,) * 2)
    change = random.choice([cv2.MORPH_DILATE, cv2.MORPH_ERODE, cv2.MORPH_OPEN, cv2.MORPH_CLOSE])
    moved = np.roll(bits, random.integers(-3, 4, 2), (0, 1)).astype(np.uint8)
    changed = cv2.morphologyEx(moved, int(change), kernel)
    if random.random() < 0.4:
        rows, columns = np.nonzero(bits)
        at = int(random.integers(rows.size))
        radius = max(1, int(np.sqrt(rows.size) * random.uniform(0.05, 0.3)))
        cv2.circle(changed, (int(columns[at]), int(rows[at])), radius, int(random.random() < 0.5), -1)
    return changed.astype(np.bool_) if np.count_nonzero(changed) > 20 else bits


def dialogue_lesson(
    script: Script, pictures: Pictures, row: int, rounds: int, random: np.random.Generator
) -> Lesson:
    """A dialogue on one view."""
    asked = dialogue(pictures.shows(row), rounds, TRAINING, random)
    return _lesson(script, pictures, row, asked, random)


def standalone_lesson(script: Script, pictures: Pictures, row: int, random: np.random.Generator) -> Lesson | None:
    """One round about a region that no text has mentioned: only crop and box can tell."""
    asked = standalone(pictures.askable(row), pictures.referable(row), random)
    return _lesson(script, pictures, row, asked, random) if asked else None


def _lesson(
    script: Script,
    pictures: Pictures,
    row: int,
    asked: Sequence[Asked],
    random: np.random.Generator,
) -> Lesson:
    ids: list[int] = []
    spoken: list[bool] = []
    segs: list[tuple[int, int]] = []
    boxes: list[tuple[int, int]] = []
    ends: list[tuple[int, int]] = []
    references: list[Shown] = []
    for number, one in enumerate(asked):
        prompt, answer = script.prompt(one, first=number == 0), script.answer(one)
        if one.refer_to is not None:
            referred = asked[one.refer_to].target if one.stray is None else one.stray
            if referred is None:
                raise AssertionError("a reference to a round without a mask")
            boxes.append((len(ids) + prompt.index(script.tokens.bbox) + TOWER.tokens - 1, referred))
            references.append(shown(pictures.source(row), imperfect(pictures.mask(row, referred), random)))
        ids += [*prompt, *answer]
        spoken += [False] * len(prompt) + [True] * len(answer)
        target = NO_STRUCTURE if one.target is None else one.target
        ends.append((len(ids) - len(answer) + TOWER.tokens - 2, target))
        if one.target is not None:
            at = len(ids) - len(answer) + answer.index(script.tokens.seg) - 1
            segs.append((at + TOWER.tokens - 1, one.target))
    at = ids.index(script.tokens.image)
    spoken[at:at] = [False] * (TOWER.tokens - 1)
    made = Row(pictures.source(row).tower, tuple(ids), tuple(references))
    carried = tuple(float(pictures.carried[row, k]) for _, k in segs)
    return Lesson(made, tuple(spoken), tuple(segs), tuple(boxes), tuple(ends), carried, pictures.gist(row))
