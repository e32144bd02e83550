"""Which requests a prompt becomes, and what is made of their answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.llm.vllm_requests import Answer, Request, completion, requests
from serving.ports import Prompt
from tests.scripted.pictures import reference, tower_image
from tests.scripted.prompts import Draft, draft
from tests.unit.serving.manifests import manifest

MODEL = manifest()
TOKENS, PATCHES = MODEL.tokens, MODEL.tower.tokens


def two_rounds() -> Draft:
    return draft(MODEL).say(5).read().close().say(8).refer(1).say(9).read()


def answer(request: Request, *ids: int, cached: int = 0) -> Answer:
    """Row k of the features is all k."""
    rows = np.repeat(np.arange(len(ids), dtype=np.float32)[:, np.newaxis], MODEL.language.feature, 1)
    return Answer(ids, rows, tuple(-float(k) for k in range(len(ids))), cached)


def test_each_feature_is_a_request_that_ends_before_its_seg() -> None:
    prompt = two_rounds().prompt()
    first, second = requests(prompt, MODEL)
    assert prompt.token_ids[len(first.token_ids)] == TOKENS.seg
    assert second.token_ids == prompt.token_ids
    assert (first.max_tokens, second.max_tokens) == (1, 1)
    assert first.length == len(first.token_ids) - 1 + PATCHES


def test_a_request_carries_the_items_of_its_placeholders_alone() -> None:
    first, second = requests(two_rounds().prompt(), MODEL)
    assert (len(first.image), len(first.crops), len(first.boxes)) == (1, 0, 0)
    assert (len(second.image), len(second.crops), len(second.boxes)) == (1, 1, 1)


def test_a_request_may_end_before_the_image_or_between_crop_and_box() -> None:
    said = replace(two_rounds(), positions=())
    crop = said.token_ids.index(TOKENS.crop)
    before, between = requests(replace(said, positions=(0, crop)).prompt(), MODEL)
    assert (before.image, before.length) == ((), 1)
    assert (len(between.crops), len(between.boxes)) == (1, 0)


def test_generation_is_one_request_more() -> None:
    forced, generating = requests(draft(MODEL).say(5).read().close().say(6).prompt(max_new_tokens=7), MODEL)
    assert forced.max_tokens == 1
    assert generating.max_tokens == 7
    assert requests(draft(MODEL).prompt(), MODEL) == []


def test_pixels_are_normalised_as_everywhere() -> None:
    prompt = two_rounds().prompt()
    (_, second) = requests(prompt, MODEL)
    assert np.array_equal(second.image[0].values, prompt.image.normalised(MODEL.tower))
    assert np.array_equal(second.crops[0].values, prompt.references[0].crop.normalised(MODEL.tower))
    assert second.boxes[0].values is prompt.references[0].box


def test_items_are_known_by_content_and_kind() -> None:
    """The same pixels as image and as crop are different tokens; another preprocessing makes other tensors."""
    image = tower_image(MODEL, 1)
    shown = replace(reference(MODEL, 1), crop=image)
    prompt = draft(MODEL).refer_to(shown).read().prompt()
    (request,) = requests(prompt, MODEL)
    assert request.image[0].key != request.crops[0].key
    assert image.digest in request.image[0].key
    other = MODEL.model_copy(update={"tower": MODEL.tower.model_copy(update={"mean": (0.1, 0.1, 0.1)})})
    assert requests(prompt, other)[0].image[0].key != request.image[0].key
    moved = replace(prompt, references=(replace(shown, box=shown.box + np.float32(0.01)),))
    assert requests(moved, MODEL)[0].boxes[0].key != request.boxes[0].key


def test_tenants_have_salts_that_do_not_name_them() -> None:
    ours, theirs = (requests(two_rounds().prompt(tenant=name), MODEL)[0].salt for name in ("ours", "theirs"))
    assert ours != theirs
    assert "ours" not in ours


def said(prompt: Prompt, *ids: int) -> tuple[tuple[int, ...], float | None]:
    """Words, and which row was taken as ``[SEG]``'s."""
    asked = requests(prompt, MODEL)
    done = completion(prompt, MODEL, asked, [answer(each, *ids) for each in asked])
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
    asked = requests(prompt, MODEL)
    lengths = [each.length for each in asked]
    warm = [answer(asked[0], 9, cached=lengths[0] - 1), answer(asked[1], 9, cached=lengths[1] - 3)]
    assert completion(prompt, MODEL, asked, warm).cached_tokens == lengths[1] - 4
    cold = [answer(asked[0], 9), answer(asked[1], 9, cached=lengths[0] - 1)]
    assert completion(prompt, MODEL, asked, cold).cached_tokens == 0
    assert completion(prompt, MODEL, asked, cold).prompt_tokens == lengths[1]


def test_a_digest_stands_for_one_normalisation() -> None:
    """Ten rounds that refer to one mask send one tensor, not ten."""
    shown = reference(MODEL, 1)
    prompt = draft(MODEL).refer_to(shown).say(1).refer_to(shown).read().prompt()
    first, second = requests(prompt, MODEL)[0].crops
    assert first.values is second.values
