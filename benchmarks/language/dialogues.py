"""Dialogues for a language engine: real slices, real questions, and the atlas' masks as references.

Knows how a dialogue becomes prompts, round after round. Does not know engines nor what is measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from demo import slices
from serving.bundle import Bundle
from serving.domain import AnswerMode, Question, Reference, SourceImage
from serving.geometry import Geometry
from serving.pixels.masks import pack_mask
from serving.ports import Completion, LanguageEngine, Prompt
from serving.prompt import PromptTemplate
from serving.wave import waves

ROUNDS = 5
Shape = Literal["star", "chain", "none"]
"""Every round refers to the first; every round to the one before; none to any."""


@dataclass(frozen=True, slots=True)
class BenchmarkDialogue:
    """All that its rounds need; references are known beforehand."""

    name: str
    image: SourceImage
    questions: tuple[Question, ...]
    references: tuple[Reference | None, ...]


def dialogues(bundle: Bundle, directory: Path, count: int, first: int = 0) -> list[BenchmarkDialogue]:
    """``count`` dialogues of ROUNDS rounds, in turn. The image of number n is moved n pixels: nobody saw it."""
    geometry = Geometry.of(bundle)
    known = [dialogue for dialogue in slices.dialogues(directory) if len(dialogue.rounds) == ROUNDS]
    return [_dialogue(geometry, known[number % len(known)], number) for number in range(first, first + count)]


def shaped(  # noqa: PLR0917  # a series has these parts
    bundle: Bundle, directory: Path, shape: Shape, rounds: int, count: int, first: int
) -> list[BenchmarkDialogue]:
    """As ``dialogues``, of ``rounds`` rounds: the same questions again and again, references by ``shape``."""
    geometry = Geometry.of(bundle)
    known = list(slices.dialogues(directory))
    return [
        _dialogue(geometry, _reshaped(known[number % len(known)], shape, rounds), number)
        for number in range(first, first + count)
    ]


def _reshaped(known: slices.SliceDialogue, shape: Shape, rounds: int) -> slices.SliceDialogue:
    refers: dict[Shape, Sequence[int | None]] = {
        "star": [None] + [0] * (rounds - 1),
        "chain": [None, *range(rounds - 1)],
        "none": [None] * rounds,
    }
    asked = zip(itertools.cycle(known.rounds), refers[shape], strict=False)
    return replace(known, rounds=tuple(replace(one, refer_to=refer_to) for one, refer_to in asked))


def _dialogue(geometry: Geometry, known: slices.SliceDialogue, number: int) -> BenchmarkDialogue:
    across, down = divmod(number, known.image.shape[0])
    image = geometry.source_image(np.roll(known.image, (down, across), axis=(0, 1)))
    masks = [pack_mask(np.roll(asked.truth, (down, across), axis=(0, 1))) for asked in known.rounds]

    def reference(refer_to: int | None) -> Reference | None:
        return None if refer_to is None else geometry.reference(image, masks[refer_to], refer_to)

    return BenchmarkDialogue(
        name=f"dialogue {number}",
        image=image,
        questions=tuple(
            Question(asked.question, asked.refer_to, AnswerMode.FORCED, f"It is the {asked.target} [SEG].")
            for asked in known.rounds
        ),
        references=tuple(reference(asked.refer_to) for asked in known.rounds),
    )


def forced_prompts(form: PromptTemplate, dialogue: BenchmarkDialogue, tenant: str) -> list[Prompt]:
    """One prompt a round, the answers given: all are known before the first is asked."""
    ids: list[int] = []
    prompts = []
    for index, question in enumerate(dialogue.questions):
        turn = form.turn(question, first=index == 0)
        ids += turn.prompt
        prompts.append(_prompt(dialogue, index, ids, tenant, (len(ids) - 1,), 0))
        ids += turn.closing
    return prompts


def wave_prompts(form: PromptTemplate, dialogue: BenchmarkDialogue, tenant: str) -> list[Prompt]:
    """One prompt a wave, as a dialogue known in advance is read."""
    rounds = forced_prompts(form, dialogue, tenant)
    return [
        replace(
            rounds[group[-1]],
            feature_positions=tuple(position for index in group for position in rounds[index].feature_positions),
        )
        for group in waves(dialogue.questions, 0)
    ]


async def forced(
    engine: LanguageEngine, form: PromptTemplate, dialogue: BenchmarkDialogue, tenant: str
) -> list[Completion]:
    """Round after round, as a live session asks."""
    return [await engine.complete(prompt) for prompt in forced_prompts(form, dialogue, tenant)]


async def free(
    engine: LanguageEngine, form: PromptTemplate, dialogue: BenchmarkDialogue, tenant: str
) -> list[Completion]:
    """Round after round in the model's own words, each of which ends with ``[SEG]``."""
    ids: list[int] = []
    completions = []
    for index, question in enumerate(dialogue.questions):
        asked = Question(question.text, question.refer_to, AnswerMode.GRAMMAR)
        ids += form.turn(asked, first=index == 0).prompt
        prompt = _prompt(dialogue, index, ids, tenant, (), form.manifest.answers.max_new_tokens)
        completion = await engine.complete(prompt)
        ids += form.close(completion.token_ids, segmented=True)[1]
        completions.append(completion)
    return completions


def _prompt(  # noqa: PLR0917  # a prompt has these parts
    dialogue: BenchmarkDialogue, index: int, ids: Sequence[int], tenant: str, positions: tuple[int, ...], new: int
) -> Prompt:
    return Prompt(
        dialogue=dialogue.name,
        tenant=tenant,
        token_ids=tuple(ids),
        image=dialogue.image.tower,
        references=tuple(shown for shown in dialogue.references[: index + 1] if shown is not None),
        feature_positions=positions,
        max_new_tokens=new,
        ensure_seg=new > 0,
    )
