"""Which requests a prompt becomes, and what is made of their answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.bundle import Manifest
from serving.domain import SegFeature
from serving.llm import vllm_requests
from serving.llm.vllm_requests import VllmAnswer, VllmRequest, completion, unread
from serving.ports import Prompt
from serving.runtime.record import RuntimeRecord
from tests.scripted.pictures import reference, tower_image
from tests.scripted.prompts import Draft, draft
from tests.unit.serving.manifests import manifest

MODEL = manifest()
TOKENS, PATCHES = MODEL.tokens, MODEL.tower.tokens
VLLM = RuntimeRecord("vllm")


def two_rounds() -> Draft:
    return draft(MODEL).say(5).read().close().say(8).refer(1).say(9).read()


def requests(prompt: Prompt, model: Manifest = MODEL) -> list[VllmRequest]:
    return vllm_requests.requests(prompt, model, chosen_rows=False)


def together(prompt: Prompt) -> list[VllmRequest]:
    return vllm_requests.requests(prompt, MODEL, chosen_rows=True)


def filled(number: float) -> SegFeature:
    return SegFeature(np.full(MODEL.language.feature, number, np.float32), -number)


def answer(request: VllmRequest, *ids: int, cached: int = 0, without: tuple[int, ...] = ()) -> VllmAnswer:
    """Row k of the features is all k; what was read at row r of the prompt is all r, if not ``without``."""
    rows = np.repeat(np.arange(len(ids), dtype=np.float32)[:, np.newaxis], MODEL.language.feature, 1)
    read = tuple(None if row in without else filled(row) for row in request.rows)
    return VllmAnswer(ids, rows, tuple(-float(k) for k in range(len(ids))), cached, read)


def test_each_feature_is_a_request_that_ends_before_its_seg() -> None:
    prompt = two_rounds().prompt()
    first, second = requests(prompt)
    assert prompt.token_ids[len(first.token_ids)] == TOKENS.seg
    assert second.token_ids == prompt.token_ids
    assert (first.max_tokens, second.max_tokens) == (1, 1)
    assert first.length == len(first.token_ids) - 1 + PATCHES


def test_a_request_carries_the_items_of_its_placeholders_alone() -> None:
    first, second = requests(two_rounds().prompt())
    assert (len(first.image), len(first.crops), len(first.boxes)) == (1, 0, 0)
    assert (len(second.image), len(second.crops), len(second.boxes)) == (1, 1, 1)


def test_a_request_may_end_before_the_image_or_between_crop_and_box() -> None:
    said = replace(two_rounds(), positions=())
    crop = said.token_ids.index(TOKENS.crop)
    before, between = requests(replace(said, positions=(0, crop)).prompt())
    assert (before.image, before.length) == ((), 1)
    assert (len(between.crops), len(between.boxes)) == (1, 0)


def test_generation_is_one_request_more() -> None:
    generating, forced = requests(draft(MODEL).say(5).read().close().say(6).prompt(max_new_tokens=7))
    assert forced.max_tokens == 1
    assert generating.max_tokens == 7
    assert requests(draft(MODEL).prompt()) == []


def test_pixels_and_boxes_are_passed_on_as_they_came() -> None:
    prompt = two_rounds().prompt()
    (_, second) = requests(prompt)
    assert second.image[0].values is prompt.image.pixels
    assert second.crops[0].values is prompt.references[0].crop.pixels
    assert second.boxes[0].values is prompt.references[0].box


def test_items_are_known_by_content_and_kind() -> None:
    """The same pixels as image and as crop are different tokens; another preprocessing makes other tensors."""
    image = tower_image(MODEL, 1)
    shown = replace(reference(MODEL, 1), crop=image)
    prompt = draft(MODEL).refer_to(shown).read().prompt()
    (request,) = requests(prompt)
    assert request.image[0].key != request.crops[0].key
    assert image.digest in request.image[0].key
    other = MODEL.model_copy(update={"tower": MODEL.tower.model_copy(update={"mean": (0.1, 0.1, 0.1)})})
    assert requests(prompt, other)[0].image[0].key != request.image[0].key
    moved = replace(prompt, references=(replace(shown, box=shown.box + np.float32(0.01)),))
    assert requests(moved)[0].boxes[0].key != request.boxes[0].key


def test_tenants_have_salts_that_do_not_name_them() -> None:
    ours, theirs = (requests(two_rounds().prompt(tenant=name))[0].salt for name in ("ours", "theirs"))
    assert ours != theirs
    assert "ours" not in ours


def said(prompt: Prompt, *ids: int) -> tuple[tuple[int, ...], float | None]:
    """Words, and which row was taken as ``[SEG]``'s."""
    asked = requests(prompt)
    done = completion(prompt, MODEL, asked, [answer(each, *ids) for each in asked], VLLM)
    return done.token_ids, None if done.generated is None else float(done.generated.vector[0])


@pytest.mark.parametrize(
    ("ids", "free", "ensured"),
    [
        ((40, 41, TOKENS.seg), ((40, 41), 2.0), ((40, 41), 2.0)),
        ((TOKENS.seg,), ((), 0.0), ((), 0.0)),
        ((40, TOKENS.eos), ((40,), None), ((40,), 1.0)),
        ((TOKENS.eos,), ((), None), ((), 0.0)),
        ((40, 41, 42, 43), ((40, 41, 42, 43), None), ((40, 41, 42), 3.0)),
    ],
)
def test_where_the_words_end_seg_is_said_if_it_must(
    ids: tuple[int, ...], free: tuple[tuple[int, ...], float], ensured: tuple[tuple[int, ...], float]
) -> None:
    start = draft(MODEL).say(5)
    assert said(start.prompt(max_new_tokens=4), *ids) == free
    assert said(start.prompt(max_new_tokens=4, ensure_seg=True), *ids) == ensured


def test_cached_tokens_are_those_of_the_prompt_that_nobody_computed() -> None:
    prompt = two_rounds().prompt()
    asked = requests(prompt)
    lengths = [each.length for each in asked]
    warm = [answer(asked[0], 9, cached=lengths[0] - 1), answer(asked[1], 9, cached=lengths[1] - 3)]
    assert completion(prompt, MODEL, asked, warm, VLLM).cached_tokens == lengths[1] - 4
    cold = [answer(asked[0], 9), answer(asked[1], 9, cached=lengths[0] - 1)]
    assert completion(prompt, MODEL, asked, cold, VLLM).cached_tokens == 0
    assert completion(prompt, MODEL, asked, cold, VLLM).prompt_tokens == lengths[1]


def test_chosen_rows_are_one_request_that_ends_at_the_last() -> None:
    prompt = two_rounds().say(5).prompt()
    (request,) = together(prompt)
    apart = requests(prompt)
    assert request.token_ids == apart[-1].token_ids
    assert request.max_tokens == 1
    assert request.rows == tuple(each.length - 1 for each in apart)
    assert request.chosen == request.rows[:-1]  # the last is the sampled token's
    assert all(each.chosen == () for each in apart)


def test_chosen_rows_and_generation_are_one_request() -> None:
    prompt = two_rounds().say(5).prompt(max_new_tokens=7)
    (request,) = together(prompt)
    assert (request.token_ids, request.max_tokens) == (prompt.token_ids, 7)
    assert len(request.chosen) == 2
    done = completion(prompt, MODEL, [request], [answer(request, 40, TOKENS.seg)], VLLM)
    assert [float(f.vector[0]) for f in done.features] == list(request.rows)
    assert done.token_ids == (40,)
    assert done.generated is not None
    assert done.generated.vector[0] == 1


def test_where_one_row_is_wanted_nothing_changes() -> None:
    for prompt in (draft(MODEL).say(5).read().prompt(), draft(MODEL).say(5).prompt(max_new_tokens=3)):
        (request,), (alone,) = together(prompt), requests(prompt)
        assert (request.chosen, request.rows, request.token_ids) == ((), alone.rows, alone.token_ids)
    assert together(draft(MODEL).prompt()) == []


def test_rows_before_at_and_behind_the_image() -> None:
    said = draft(MODEL).say(5)
    image = said.token_ids.index(TOKENS.image)
    (request,) = together(replace(said, positions=(0, image, image + 1)).prompt())
    assert request.rows == (0, image + PATCHES - 1, image + PATCHES)


def test_rows_that_the_prefix_cache_had_are_asked_apart() -> None:
    prompt = two_rounds().say(5).read().prompt()
    (request,) = asked = together(prompt)
    first, second = request.rows[:2]
    answers = [answer(request, 9, cached=second + 1, without=(first, second))]
    more = unread(prompt, MODEL, asked, answers)
    assert [each.rows for each in more] == [(first,), (second,)]
    assert [each.token_ids for each in more] == [each.token_ids for each in requests(prompt)[:2]]
    assert all(each.chosen == () for each in more)
    later = [answer(each, 9, cached=each.length - 1) for each in more]
    done = completion(prompt, MODEL, asked + more, answers + later, VLLM)
    assert [float(f.vector[0]) for f in done.features] == list(request.rows)
    assert done.cached_tokens == second + 1 - 2
    assert unread(prompt, MODEL, asked, [answer(request, 9)]) == []
