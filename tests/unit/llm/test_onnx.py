"""What the ONNX language engine computes, keeps, stops and refuses beyond its contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from serving.bundle import Bundle, BundleError
from serving.errors import EngineFault
from serving.llm import onnx
from serving.llm.onnx import LanguageCounts, OnnxLanguage, likeliest, log_probability
from tests.scripted.prompts import Draft, draft

CACHE = 2**26


@pytest.fixture
async def engine(random_bundle: Bundle) -> AsyncIterator[OnnxLanguage]:
    made = OnnxLanguage(random_bundle, threads=1, cache_bytes=CACHE)
    yield made
    await made.close()


@pytest.fixture
def start(random_bundle: Bundle) -> Draft:
    return draft(random_bundle.manifest)


def token_bytes(bundle: Bundle) -> int:
    language = bundle.manifest.language
    return 2 * language.layers * language.kv_heads * language.head_dim * 4


def star(start: Draft) -> Draft:
    """Four forced rounds; the last three refer to two masks."""
    rounds = start.say(5, 6).read().close()
    for seed in (5, 6, 5):
        rounds = rounds.say(8).refer(seed).say(9, 10).read().close()
    return rounds


async def test_a_wave_is_one_pass_whatever_it_reads(engine: OnnxLanguage, start: Draft) -> None:
    completion = await engine.complete(star(start).prompt())
    assert len(completion.features) == 4
    assert engine.counts == LanguageCounts(
        passes=1,
        steps=0,
        computed_tokens=completion.prompt_tokens,
        cached_tokens=0,
        tower_images=3,  # the image and two different crops
        cache_bytes=engine.counts.cache_bytes,
    )


async def test_the_next_round_computes_only_what_is_new(engine: OnnxLanguage, start: Draft) -> None:
    first = start.say(5, 6).read()
    second = replace(first.close().say(8).refer(5).say(9).read(), positions=())
    second = second.read()
    read = await engine.complete(first.prompt())
    before = engine.counts
    completion = await engine.complete(second.prompt())
    new = completion.prompt_tokens - read.prompt_tokens
    assert completion.cached_tokens == read.prompt_tokens
    assert engine.counts.computed_tokens - before.computed_tokens == new
    assert engine.counts.tower_images - before.tower_images == 1
    alone = await engine.complete(second.prompt("alone"))
    assert alone.cached_tokens == 0
    np.testing.assert_allclose(completion.features[0].vector, alone.features[0].vector, rtol=0, atol=1e-4)
    assert completion.features[0].log_probability == pytest.approx(alone.features[0].log_probability, abs=1e-4)


async def test_text_alone_needs_no_tower(engine: OnnxLanguage, start: Draft) -> None:
    first = start.say(5, 6).read()
    await engine.complete(first.prompt())
    before = engine.counts.tower_images
    await engine.complete(replace(first.close().say(8, 9), positions=()).read().prompt())
    assert engine.counts.tower_images == before


async def test_what_is_read_again_is_computed_from_its_feature_on(engine: OnnxLanguage, start: Draft) -> None:
    rounds = start.say(5, 6).read().close().say(8).read().prompt()
    first = await engine.complete(rounds)
    again = await engine.complete(rounds)
    after_the_first_feature = len(rounds.token_ids) - rounds.feature_positions[0]
    assert again.cached_tokens == first.prompt_tokens - after_the_first_feature
    for ours, theirs in zip(first.features, again.features, strict=True):
        np.testing.assert_allclose(ours.vector, theirs.vector, rtol=0, atol=1e-4)


async def test_the_cache_keeps_to_its_bytes(random_bundle: Bundle, start: Draft) -> None:
    prompt = start.say(5, 6).read().prompt("a")
    size = (len(prompt.token_ids) - 1 + random_bundle.manifest.tower.tokens) * token_bytes(random_bundle)
    engine = OnnxLanguage(random_bundle, threads=1, cache_bytes=2 * size + size // 2)
    for dialogue in ("a", "b", "c", "b"):
        await engine.complete(replace(prompt, dialogue=dialogue))
    assert engine.counts.cache_bytes == 2 * size
    cached = [(await engine.complete(replace(prompt, dialogue=name))).cached_tokens > 0 for name in "cba"]
    assert cached == [True, True, False]
    await engine.close()


async def test_one_that_is_too_large_is_not_kept(random_bundle: Bundle, start: Draft) -> None:
    engine = OnnxLanguage(random_bundle, threads=1, cache_bytes=token_bytes(random_bundle) * 5)
    for _ in range(2):
        completion = await engine.complete(start.say(5, 6).read().prompt())
        assert (completion.cached_tokens, engine.counts.cache_bytes) == (0, 0)
    await engine.close()


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What greedy choice yields instead of the model's, in order."""
    script: list[int] = []

    def next_of_script(logits: np.ndarray, never: Sequence[int]) -> int:
        assert logits.ndim == 1
        return script.pop(0)

    monkeypatch.setattr(onnx, "likeliest", next_of_script)
    yield script
    assert script == []


async def test_a_generated_seg_has_the_feature_a_forced_one_would_have(
    engine: OnnxLanguage, start: Draft, says: list[int], random_bundle: Bundle
) -> None:
    words = start.say(11, 12, 13).token_ids[-3:]
    says += [*words, random_bundle.manifest.tokens.seg]
    asked = start.say(5)
    free = await engine.complete(asked.prompt("free", max_new_tokens=9))
    forced = await engine.complete(asked.say(11, 12, 13).read().prompt("forced"))
    assert free.token_ids == words
    assert free.generated is not None
    np.testing.assert_allclose(free.generated.vector, forced.features[0].vector, rtol=0, atol=1e-4)
    assert free.generated.log_probability == pytest.approx(forced.features[0].log_probability, abs=1e-4)
    assert engine.counts.passes == 2
    assert engine.counts.steps == 3


async def test_an_answer_that_is_only_seg(
    engine: OnnxLanguage, start: Draft, says: list[int], random_bundle: Bundle
) -> None:
    says.append(random_bundle.manifest.tokens.seg)
    read = await engine.complete(start.say(5).read().prompt(max_new_tokens=1))
    assert read.token_ids == ()
    assert read.generated is not None
    assert np.array_equal(read.generated.vector, read.features[0].vector)
    assert engine.counts.steps == 0


async def test_an_answer_that_ends_without_seg(
    engine: OnnxLanguage, start: Draft, says: list[int], random_bundle: Bundle
) -> None:
    says += [7, random_bundle.manifest.tokens.eos]
    completion = await engine.complete(start.say(5).prompt(max_new_tokens=9))
    assert (completion.token_ids, completion.generated) == ((7,), None)


async def test_an_answer_that_reaches_its_limit(engine: OnnxLanguage, start: Draft, says: list[int]) -> None:
    says += [7, 8, 9]
    completion = await engine.complete(start.say(5).prompt(max_new_tokens=3))
    assert (completion.token_ids, completion.generated) == ((7, 8, 9), None)
    assert engine.counts.steps == 2  # nothing follows the last token, so it is not computed


async def test_the_next_round_reuses_what_was_generated(
    engine: OnnxLanguage, start: Draft, says: list[int], random_bundle: Bundle
) -> None:
    seg = random_bundle.manifest.tokens.seg
    says += [7, 8, seg]
    asked = start.say(5)
    answered = await engine.complete(asked.prompt(max_new_tokens=9))
    history = replace(asked, token_ids=(*asked.token_ids, *answered.token_ids))
    following = await engine.complete(history.close().say(6).read().prompt())
    assert following.cached_tokens == answered.prompt_tokens + 2


async def test_generation_stops_between_steps(
    engine: OnnxLanguage, start: Draft, monkeypatch: pytest.MonkeyPatch, random_bundle: Bundle
) -> None:
    monkeypatch.setattr(onnx, "likeliest", lambda logits, never: 7)
    room = random_bundle.manifest.language.max_tokens - random_bundle.manifest.tower.tokens - 10
    call = asyncio.create_task(engine.complete(start.say(5).prompt(max_new_tokens=room)))
    while engine.counts.steps < 2:  # noqa: ASYNC110  # the engine announces no steps
        await asyncio.sleep(0.001)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()
    stopped = engine.counts.steps
    assert stopped < room - 1
    await asyncio.sleep(0.05)
    assert engine.counts.steps == stopped


async def test_a_cancelled_round_leaves_the_dialogue_s_cache(engine: OnnxLanguage, start: Draft) -> None:
    first = start.say(5, 6).read()
    held = (await engine.complete(first.prompt())).prompt_tokens
    second = replace(first.close().say(8), positions=()).read().prompt()
    call = asyncio.create_task(engine.complete(second))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert (await engine.complete(second)).cached_tokens >= held


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("language", "hidden", "output crop_token is float32"),
        ("language", "feature", "output features is float32"),
        ("language", "vocabulary", "output logits is float32"),
        ("language", "layers", "input past_keys is float32"),
        ("tower", "tokens", "output patch_tokens is float32"),
        ("tower", "side", "input pixels is float32"),
    ],
)
def test_a_manifest_that_says_otherwise_is_refused(
    random_bundle: Bundle, section: str, change: str, words: str
) -> None:
    manifest = random_bundle.manifest
    said = getattr(manifest, section)
    wrong = said.model_copy(update={change: getattr(said, change) + 1})
    bundle = replace(random_bundle, manifest=manifest.model_copy(update={section: wrong}))
    with pytest.raises(BundleError, match=f"onnx does not fit the manifest: .*{words}"):
        OnnxLanguage(bundle, threads=1, cache_bytes=0)


def test_reserved_tokens_are_never_chosen() -> None:
    logits = np.array([9, 1, 8, 3], np.float32)
    assert likeliest(logits, []) == 0
    assert likeliest(logits, [0]) == 2
    assert likeliest(logits, [0, 2]) == 3
    assert logits.tolist() == [9, 1, 8, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_choose_nothing(bad: float) -> None:
    with pytest.raises(EngineFault):
        likeliest(np.array([1, bad, 2], np.float32), [])


def test_log_probabilities_are_stable() -> None:
    assert log_probability(np.array([0, 0, 0, 0], np.float32), 2) == pytest.approx(np.log(0.25))
    far = np.array([30_000, 0, 29_999], np.float32)
    assert log_probability(far, 1) == pytest.approx(-30_000.3132617)
    assert log_probability(far, 0) == pytest.approx(-0.3132617)
