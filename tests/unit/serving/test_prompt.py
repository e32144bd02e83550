"""The prompt's exact text, and where features are read."""

from __future__ import annotations

import numpy as np
import pytest

from serving.domain import AnswerMode, GivenMask, Question
from serving.errors import InvalidInput
from serving.pixels.masks import pack_mask
from serving.prompt import PromptTemplate
from tests.unit.serving.manifests import manifest

FIRST_CHARACTER = 100
SPECIAL = {1: "<s>", 2: "</s>", 3: "[SEG]", 4: "[BBOXINPUT]", 5: "[CROPPEDIMAGE]", 2**21: "<image>"}


class Characters:
    """A tokenizer that loses nothing: one id a character, far from the special ids."""

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(ord(character) + FIRST_CHARACTER for character in text)

    def decode(self, ids: tuple[int, ...]) -> str:
        return "".join(chr(i - FIRST_CHARACTER) for i in ids)


def shown(ids: tuple[int, ...]) -> str:
    return "".join(SPECIAL.get(i) or chr(i - FIRST_CHARACTER) for i in ids)


@pytest.fixture
def form() -> PromptTemplate:
    return PromptTemplate(manifest(), Characters())


def forced(text: str, answer: str = "", refer_to: int | None = None) -> Question:
    return Question(text, refer_to, AnswerMode.FORCED, answer)


def free(text: str, refer_to: int | None = None) -> Question:
    return Question(text, refer_to, AnswerMode.FREE)


def test_two_rounds_read_exactly_as_published(form: PromptTemplate) -> None:
    first = form.turn(forced("Segment the liver.", "It is [SEG]."), first=True)
    second = form.turn(forced("Segment the tumor in it.", "Sure, [SEG].", 0), first=False)
    text = shown(first.prompt + first.closing + second.prompt + second.closing)
    assert text == (
        "<s>[INST] <image>\n Segment the liver. [/INST] It is [SEG]. </s>"
        "[INST] [CROPPEDIMAGE][BBOXINPUT] Segment the tumor in it. [/INST] Sure, [SEG]. </s>"
    )


def test_a_later_round_without_a_reference(form: PromptTemplate) -> None:
    turn = form.turn(forced("  And the spleen?\t", "[SEG]."), first=False)
    assert shown(turn.prompt + turn.closing) == "[INST] And the spleen? [/INST] [SEG]. </s>"


def test_a_first_round_about_a_given_mask(form: PromptTemplate) -> None:
    mask = pack_mask(np.ones((2, 2), np.bool_))
    question = Question("Where?", None, AnswerMode.FORCED, "[SEG].", given_mask=GivenMask(mask.digest, mask))
    assert shown(form.turn(question, first=True).prompt) == (
        "<s>[INST] <image>\n [CROPPEDIMAGE][BBOXINPUT] Where? [/INST] "
    )
    assert shown(form.turn(question, first=False).prompt) == "[INST] [CROPPEDIMAGE][BBOXINPUT] Where? [/INST] "


def test_the_feature_is_read_just_before_seg(form: PromptTemplate) -> None:
    turn = form.turn(forced("Where?"), first=True)
    assert shown(turn.prompt).endswith("[/INST] It is ")
    assert shown(turn.closing) == "[SEG]. </s>"


def test_a_free_turn_is_closed_with_what_was_said(form: PromptTemplate) -> None:
    turn = form.turn(free("Where?"), first=True)
    assert shown(turn.prompt).endswith("Where? [/INST]")
    assert not turn.forced
    said = tuple(ord(c) + FIRST_CHARACTER for c in "The liver ")
    answer, ids = form.close(said, segmented=True)
    assert (answer, shown(ids)) == ("The liver [SEG].", "The liver [SEG]. </s>")
    answer, ids = form.close(said, segmented=False)
    assert (answer, shown(ids)) == ("The liver", "The liver </s>")


def test_typed_markers_stay_text(form: PromptTemplate) -> None:
    turn = form.turn(free("x [SEG] </s> [CROPPEDIMAGE] <image>"), first=False)
    assert set(turn.prompt).isdisjoint(SPECIAL)


@pytest.mark.parametrize("answer", ["no marker", "[SEG] and [SEG]"])
def test_a_forced_answer_holds_one_seg(form: PromptTemplate, answer: str) -> None:
    with pytest.raises(InvalidInput, match="exactly once") as caught:
        form.turn(forced("Where?", answer), first=True)
    assert caught.value.field == "answer"


def test_a_template_that_was_not_trained_answers_nothing() -> None:
    answers = manifest().answers.model_copy(update={"default_mode": "free", "template_trained": False})
    form = PromptTemplate(manifest(answers=answers.model_dump()), Characters())
    with pytest.raises(InvalidInput, match=r"must be given.*FREE or GRAMMAR") as caught:
        form.turn(forced("Where?"), first=True)
    assert caught.value.field == "answer"
    assert form.turn(forced("Where?", "It is [SEG]."), first=True).answer == "It is [SEG]."
    assert not form.turn(free("Where?"), first=True).forced


def test_the_limit_counts_the_expanded_image_and_the_answer(form: PromptTemplate) -> None:
    form.check_length(range(397), max_new_tokens=0, advice="shorten it")
    with pytest.raises(InvalidInput, match="must fit 400 tokens"):
        form.check_length(range(398), max_new_tokens=0, advice="shorten it")
    with pytest.raises(InvalidInput, match=r"answer \(up to 1\)"):
        form.check_length(range(397), max_new_tokens=1, advice="shorten it")
