"""The bundled model on its real graphs: masks given, amended, undone and branched, against a fresh session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.bundle import load_bundle
from serving.domain import AnswerMode, Correction, CorrectionPolicy, GivenMask, Mask, Question
from serving.history.rounds import RoundResult
from serving.offline import offline
from serving.orchestrator import Orchestrator
from serving.pixels.masks import pack_mask
from serving.sessions.keeper import NewSession
from tests.conftest import REPOSITORY

LITE = REPOSITORY / "models" / "mediround-lite"
ALWAYS = Correction(CorrectionPolicy.ALWAYS, 0.6)
REFERENCED = Correction(CorrectionPolicy.REFERENCED, 0.6)
FIRST = ("Segment the left thalamus.", "It is the left thalamus [SEG].")
OTHER = ("Segment the same structure on the other side.", "It is the right thalamus [SEG].")
THIRD = ("Segment the same structure on the other side again.", "It is the left thalamus [SEG].")


@pytest.fixture(scope="module")
def slice_pixels() -> np.ndarray:
    path: Path = min(path for path in (LITE / "slices").glob("slice_z*.png") if "labels" not in path.name)
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
async def orchestrator() -> AsyncIterator[Orchestrator]:
    async with offline(load_bundle(LITE), threads=1) as made:
        yield made


def asked(words: tuple[str, str], refer_to: int | None = None, mask: Mask | None = None) -> Question:
    given = None if mask is None else GivenMask(mask.digest, mask)
    return Question(words[0], refer_to, AnswerMode.FORCED, words[1], given_mask=given)


def seeded(words: tuple[str, str], mask: Mask) -> Question:
    return Question(words[0], None, AnswerMode.FORCED, words[1], seed_mask=mask)


def mask_of(result: RoundResult) -> Mask:
    assert result.segmentation is not None
    return result.segmentation.mask


def assert_same(left: RoundResult, right: RoundResult) -> None:
    """Of another session, and perhaps of passes of other lengths."""
    ours, theirs = left.segmentation, right.segmentation
    assert ours is not None
    assert theirs is not None
    assert ours.mask.digest == theirs.mask.digest
    assert ours.score == pytest.approx(theirs.score, abs=1e-5)
    assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-5)
    assert left.round.token_ids[-3:] == right.round.token_ids[-3:]


def edited(mask: Mask) -> Mask:
    """Without its lower half."""
    bits = mask.bits().copy()
    assert mask.box is not None
    bits[(mask.box.y_min + mask.box.y_max) // 2 :] = False
    return pack_mask(bits)


async def test_given_masks_and_seeds_answer_as_rounds_do(
    orchestrator: Orchestrator, slice_pixels: np.ndarray
) -> None:
    by_round, by_mask, by_seed, at_once = [
        (await orchestrator.open("anna", slice_pixels)).session_id for _ in range(4)
    ]
    first = await orchestrator.ask(by_round, "anna", asked(FIRST), ALWAYS)
    assert mask_of(first).area > 0
    second = await orchestrator.ask(by_round, "anna", asked(OTHER, 0), ALWAYS)
    await orchestrator.ask(by_mask, "anna", asked(FIRST), ALWAYS)
    assert_same(await orchestrator.ask(by_mask, "anna", asked(OTHER, mask=mask_of(first)), ALWAYS), second)
    await orchestrator.ask(by_seed, "anna", seeded(FIRST, mask_of(first)), ALWAYS)
    assert_same(await orchestrator.ask(by_seed, "anna", asked(OTHER, 0), ALWAYS), second)
    whole = [seeded(FIRST, mask_of(first)), asked(OTHER, 0)]
    results = [each async for each in orchestrator.segment(at_once, "anna", whole, ALWAYS)]
    assert [each.cache.wave for each in results] == [0, 0]
    assert_same(results[1], second)


async def test_what_was_amended_undone_or_branched_equals_a_fresh_session(
    orchestrator: Orchestrator, slice_pixels: np.ndarray
) -> None:
    worked, fresh = [(await orchestrator.open("anna", slice_pixels)).session_id for _ in range(2)]
    first = await orchestrator.ask(worked, "anna", asked(FIRST), ALWAYS)
    await orchestrator.ask(worked, "anna", asked(OTHER, 0), ALWAYS)
    await orchestrator.ask(worked, "anna", asked(THIRD, 1), ALWAYS)
    keeper, by_hand = orchestrator.keeper, edited(mask_of(first))
    given = GivenMask(by_hand.digest, by_hand)
    await keeper.rewind(worked, "anna", 2, 3, None)
    await keeper.amend(worked, "anna", first.round.round_id, given, expected=2, key=None)
    branch = NewSession("anna", "branch")
    await keeper.fork(worked, branch, None, None)
    after = await orchestrator.ask("branch", "anna", asked(THIRD, 0), ALWAYS)
    await orchestrator.ask(fresh, "anna", asked(FIRST), ALWAYS)
    await orchestrator.ask(fresh, "anna", asked(OTHER, 0), ALWAYS)
    assert_same(after, await orchestrator.ask(fresh, "anna", asked(THIRD, mask=by_hand), ALWAYS))
    assert after.cache.embedding_hit
    assert after.round.used is not None
    assert after.round.used.referred.mask.digest == by_hand.digest


async def test_a_first_question_about_a_given_mask_is_answered(
    orchestrator: Orchestrator, slice_pixels: np.ndarray
) -> None:
    donor, session = [(await orchestrator.open("anna", slice_pixels)).session_id for _ in range(2)]
    thalamus = mask_of(await orchestrator.ask(donor, "anna", asked(FIRST), ALWAYS))
    result = await orchestrator.ask(session, "anna", asked(OTHER, mask=thalamus), ALWAYS)
    assert mask_of(result).area > 0
    assert result.round.used is not None
    assert result.round.used.box == thalamus.box
