"""Whole dialogues through the trained model, as the service would run them.

Knows greedy generation, the correction rule and how an answer's own mask becomes a later reference. Does
not know how dialogues are chosen or scored. Plain torch: all dialogues advance together, round by round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.checkpoint.model import Model
from serving.domain import SourceImage
from training.features import GEOMETRY, pixels, rgb
from training.language import LanguageHalf, Row, Shown
from training.questions import ANSWERS, Asked
from training.rows import Script, shown
from training.targets import NAMES
from training.views import View
from training.vision import full_size

BATCH = 32
MAX_WORDS = 32
_NEVER = -1.0

Bits = NDArray[np.bool_]


class References(Enum):
    """What a later round is shown of an earlier one."""

    PREDICTED = auto()
    TRUE = auto()
    ZEROED = auto()
    """Predicted, but crop and box embeddings set to 0."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the model made of one round."""

    words: str
    mask: Bits | None
    """None where the answer holds no [SEG]."""
    feature: NDArray[np.float32] | None  # (256,) raw
    score: float
    corrected: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """A slice ready to be asked about."""

    view: View
    source: SourceImage
    embedding: Tensor  # (256, 64, 64)


@dataclass(slots=True)
class _Dialogue:
    scene: Scene
    asked: Sequence[Asked]
    ids: list[int] = field(default_factory=list)
    references: list[Shown] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)

    def row(self, generated: Sequence[int]) -> Row:
        return Row(self.scene.source.tower, (*self.ids, *generated), tuple(self.references))


class Player:
    """Runs dialogues against one model."""

    def __init__(self, model: Model, script: Script) -> None:
        self.model, self.script, self.tokens = model, script, script.tokens
        self.half = LanguageHalf(model.language.sizes.vocabulary).eval()
        self.half.tower, self.half.model = model.tower, model.language

    @torch.inference_mode()
    def scene(self, view: View) -> Scene:
        """Encode a slice by the serving path."""
        return Scene(view, GEOMETRY.source_image(rgb(view.image)), self.model.image_encoder(pixels(view.image))[0])

    @torch.inference_mode()
    def play(
        self, scripts: Sequence[tuple[Scene, Sequence[Asked]]], references: References, threshold: float = _NEVER
    ) -> list[list[Said]]:
        """Every round of every dialogue; features scored at most ``threshold`` are corrected."""
        dialogues = [_Dialogue(scene, asked) for scene, asked in scripts]
        for number in range(max(len(one.asked) for one in dialogues)):
            active = [one for one in dialogues if number < len(one.asked)]
            for start in range(0, len(active), BATCH):
                self._round(active[start : start + BATCH], number, references, threshold)
        return [one.said for one in dialogues]

    def _round(self, dialogues: list[_Dialogue], number: int, references: References, threshold: float) -> None:
        for one in dialogues:
            asked = one.asked[number]
            one.ids += self.script.prompt(asked, first=number == 0)
            if asked.refer_to is not None:
                one.references.append(shown(one.scene.source, _referred(one, asked.refer_to, references)))
        generated = self._generate(dialogues, number, zeroed=references is References.ZEROED)
        for one, (ids, feature) in zip(dialogues, generated, strict=True):
            words, closed = self.script.form.close(tuple(ids), segmented=feature is not None)
            one.ids += closed
            one.said.append(self._decode(one.scene, words, feature, threshold))

    def _generate(
        self, dialogues: list[_Dialogue], number: int, *, zeroed: bool
    ) -> list[tuple[list[int], Tensor | None]]:
        """Greedy words of each answer, and the feature read where [SEG] came next.

        The first pass checks the whole right answer at once: what the model would have said itself stays.
        """
        words: list[list[int]] = [[] for _ in dialogues]
        drafts = [self.script.said(_right(one.asked[number])) for one in dialogues]
        features: dict[int, Tensor] = {}
        pending = set(range(len(dialogues)))
        seen = self.half.see([one.row(()) for one in dialogues])
        while pending:
            rows = [one.row((*ids, *more)) for one, ids, more in zip(dialogues, words, drafts, strict=True)]
            hidden, token_ids = self.half(rows, self.tokens, seen=seen, zeroed=zeroed)
            ends = (token_ids >= 0).sum(1).tolist()
            for k in list(pending):
                states = hidden[k, ends[k] - 1 - len(drafts[k]) : ends[k]]
                following = self.model.language.lm_head(states).argmax(-1).tolist()
                agreed = _agreed(drafts[k], following)
                words[k] += drafts[k][:agreed]
                drafts[k] = ()
                if following[agreed] not in {self.tokens.seg, self.tokens.eos} and len(words[k]) < MAX_WORDS:
                    words[k].append(following[agreed])
                    continue
                pending.remove(k)
                if following[agreed] == self.tokens.seg:
                    features[k] = self.model.language.feature(states[agreed])
        return [(ids, features.get(k)) for k, ids in enumerate(words)]

    def _decode(self, scene: Scene, words: str, feature: Tensor | None, threshold: float) -> Said:
        if feature is None:
            return Said(words, None, None, float("nan"), corrected=False)
        score, corrected, used = self.model.heads(feature[None, None], torch.tensor([[threshold]]))
        logits, _ = self.model.mask_decoder(scene.embedding[None], used)
        mask = full_size(logits[0, 0].numpy(), scene.view.image.shape[0])
        return Said(words, mask, feature.numpy().copy(), float(score), bool(corrected))


def _right(asked: Asked) -> str:
    return asked.answer if asked.target is None else ANSWERS[0].format(NAMES[asked.target])


def _agreed(drafted: Sequence[int], following: Sequence[int]) -> int:
    """How many drafted words, from the first, are those that follow."""
    pairs = enumerate(zip(drafted, following[: len(drafted)], strict=True))
    return next((at for at, (word, own) in pairs if word != own), len(drafted))


def _referred(one: _Dialogue, number: int, references: References) -> Bits:
    """The mask a round is shown; where the model gave none, an empty one (the whole image stands in)."""
    target = one.asked[number].target
    if references is References.TRUE and target is not None:
        return np.asarray(one.scene.view.labels & np.uint32(1 << target), np.bool_)
    mask = one.said[number].mask
    return np.zeros(one.scene.view.image.shape, np.bool_) if mask is None else mask
