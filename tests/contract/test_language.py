"""What every LanguageEngine does, whoever computes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import pytest_asyncio

from serving.bundle import Bundle, Manifest
from serving.errors import InvalidInput, Unavailable
from serving.llm.onnx import OnnxLanguage
from serving.llm.remote import RemoteLanguage
from serving.llm.vllm_engine import VllmLanguage
from serving.ports import Completion, LanguageEngine, Prompt
from tests.llm.harness import language_server
from tests.scripted.language import ScriptedLanguage
from tests.scripted.pictures import reference, tower_image
from tests.scripted.prompts import Draft, draft
from tests.unit.serving.manifests import manifest as made_up

pytestmark = pytest.mark.asyncio(loop_scope="session")
SAME = 1e-5
"""Largest difference between features, relative to their largest value: the same sums in another order."""
DIFFERENT = 1e-4
"""Random weights make little of a crop; what they make of it is ten times the noise."""


@dataclass(frozen=True, slots=True)
class Subject:
    engine: LanguageEngine
    manifest: Manifest

    def draft(self) -> Draft:
        return draft(self.manifest)

    async def vectors(self, prompt: Prompt) -> np.ndarray:
        """(F, feature)"""
        completion = await self.engine.complete(prompt)
        return np.stack([feature.vector for feature in completion.features])


class SharedMemory:
    """An engine that tests share. Each test is a tenant of its own, so that it finds nothing cached by others."""

    numbers = itertools.count()

    def __init__(self, engine: LanguageEngine) -> None:
        self.description, self.runtimes = engine.description, engine.runtimes
        self._engine, self._number = engine, next(self.numbers)

    async def complete(self, prompt: Prompt) -> Completion:
        return await self._engine.complete(replace(prompt, tenant=f"{self._number}/{prompt.tenant}"))

    async def close(self) -> None:
        """Not before the last test."""


@pytest.fixture
def scripted() -> Subject:
    manifest = made_up()
    return Subject(ScriptedLanguage(manifest), manifest)


@pytest_asyncio.fixture(loop_scope="session")
async def onnx(random_bundle: Bundle) -> AsyncIterator[Subject]:
    engine = OnnxLanguage(random_bundle, threads=1, cache_bytes=2**26)
    yield Subject(engine, random_bundle.manifest)
    await engine.close()


@pytest_asyncio.fixture(loop_scope="session")
async def onnx_without_cache(random_bundle: Bundle) -> AsyncIterator[Subject]:
    engine = OnnxLanguage(random_bundle, threads=1, cache_bytes=0)
    yield Subject(engine, random_bundle.manifest)
    await engine.close()


@pytest_asyncio.fixture(loop_scope="session")
async def onnx_behind_a_server(random_bundle: Bundle) -> AsyncIterator[Subject]:
    engine = OnnxLanguage(random_bundle, threads=1, cache_bytes=2**26)
    async with language_server(engine, random_bundle) as server:
        remote = RemoteLanguage([server.address], random_bundle, max_references=8)
        yield Subject(remote, random_bundle.manifest)
        await remote.close()
    await engine.close()


@pytest.fixture
def vllm(vllm_language: VllmLanguage, random_bundle: Bundle) -> Subject:
    return Subject(SharedMemory(vllm_language), random_bundle.manifest)


@pytest.fixture
def vllm_chosen_rows(vllm_with_rows: VllmLanguage, random_bundle: Bundle) -> Subject:
    return Subject(SharedMemory(vllm_with_rows), random_bundle.manifest)


ENGINES = ["onnx", "onnx_without_cache", "onnx_behind_a_server", "scripted", "vllm", "vllm_chosen_rows"]


@pytest.fixture(params=ENGINES)
def subject(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.getfixturevalue(request.param)
    return found


def two_rounds(subject: Subject, seed: int = 5) -> Draft:
    """A forced round, and a second one that refers to it."""
    first = subject.draft().say(5, 6, 7).read().close()
    return first.say(8).refer(seed).say(9, 10).read()


def assert_same(first: np.ndarray, second: np.ndarray) -> None:
    assert difference(first, second) < SAME


def assert_differ(first: np.ndarray, second: np.ndarray) -> None:
    assert difference(first, second) > DIFFERENT


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max() / np.abs(first).max())


async def test_one_feature_for_each_position_wanted(subject: Subject) -> None:
    completion = await subject.engine.complete(two_rounds(subject).prompt())
    assert len(completion.features) == 2
    for feature in completion.features:
        assert feature.vector.shape == (subject.manifest.language.feature,)
        assert feature.vector.dtype == np.float32
        assert np.isfinite(feature.vector).all()
        assert -200 < feature.log_probability <= 0
    assert completion.token_ids == ()
    assert completion.generated is None


async def test_image_tokens_are_counted(subject: Subject) -> None:
    prompt = subject.draft().say(5).read().prompt()
    completion = await subject.engine.complete(prompt)
    assert completion.prompt_tokens == len(prompt.token_ids) - 1 + subject.manifest.tower.tokens
    assert completion.cached_tokens == 0


async def test_what_a_dialogue_begins_with_may_be_read_ahead(subject: Subject) -> None:
    """Up to its image, and one token that nobody wants: the prompt that follows is answered as without."""
    whole = two_rounds(subject)
    end = whole.token_ids.index(subject.manifest.tokens.image) + 1
    beginning = replace(whole, token_ids=whole.token_ids[:end], references=(), positions=())
    assert not (await subject.engine.complete(beginning.prompt("one", max_new_tokens=1))).features
    ahead, alone = (
        await subject.vectors(whole.prompt("one")),
        await subject.vectors(whole.prompt("other", tenant="b")),
    )
    assert_same(ahead, alone)


async def test_the_same_prompt_yields_the_same(subject: Subject) -> None:
    prompt = two_rounds(subject).prompt()
    assert_same(await subject.vectors(prompt), await subject.vectors(prompt))


async def test_a_wave_reads_what_rounds_read_one_by_one(subject: Subject) -> None:
    first = subject.draft().say(5, 6, 7).read().prompt("one by one")
    both = two_rounds(subject)
    second = replace(both, positions=both.positions[1:]).prompt("one by one")
    wave = await subject.vectors(both.prompt("wave"))
    assert_same(wave[0], (await subject.vectors(first))[0])
    assert_same(wave[1], (await subject.vectors(second))[0])


async def test_what_comes_later_changes_nothing_before(subject: Subject) -> None:
    one, other = [await subject.vectors(two_rounds(subject, seed).prompt()) for seed in (5, 6)]
    assert_same(one[0], other[0])
    assert_differ(one[1], other[1])


@pytest.mark.parametrize("part", ["crop", "box"])
async def test_crop_and_box_both_count(subject: Subject, part: str) -> None:
    shown, other = reference(subject.manifest, 5), reference(subject.manifest, 6)
    mixed = replace(shown, crop=other.crop) if part == "crop" else replace(shown, box=other.box)
    start = subject.draft().say(5)
    vectors = [await subject.vectors(start.refer_to(r).say(6).read().prompt()) for r in (shown, mixed)]
    assert_differ(vectors[0], vectors[1])


async def test_references_keep_their_order(subject: Subject) -> None:
    start = subject.draft().say(5)
    forth = start.refer(5).say(7).refer(6).say(8).read().prompt()
    back = start.refer(6).say(7).refer(5).say(8).read().prompt()
    assert_differ(await subject.vectors(forth), await subject.vectors(back))


async def test_a_crop_that_returns(subject: Subject) -> None:
    """Whatever an engine shares between equal crops, each token gets its own: read at once, and one by one."""
    shown, other = reference(subject.manifest, 5), reference(subject.manifest, 6)
    again = replace(shown, box=other.box)
    steps = [subject.draft().read()]
    for word, each in enumerate([shown, other, again]):
        steps.append(steps[-1].refer_to(each).say(word).read())
    at_once = await subject.vectors(steps[-1].prompt("at once"))
    for expected, step in zip(at_once, steps, strict=True):
        alone = replace(step, positions=step.positions[-1:]).prompt("one by one")
        assert_same((await subject.vectors(alone))[0], expected)


async def test_a_dialogue_is_a_hint_and_never_a_key(subject: Subject) -> None:
    """One name for prompts with other pixels, words and references: nothing of one reaches the other."""
    rounds = two_rounds(subject)
    other_image = replace(rounds, image=tower_image(subject.manifest, 77))
    other_word = subject.draft().say(5, 2, 7).read().close().say(8).refer(5).say(9, 10).read()
    variants = [rounds, other_image, two_rounds(subject, 6), other_word, rounds]
    alone = [await subject.vectors(each.prompt(f"alone {i}")) for i, each in enumerate(variants)]
    shared = [await subject.vectors(each.prompt("shared")) for each in variants]
    for expected, actual in zip(alone, shared, strict=True):
        assert_same(expected, actual)
    assert_differ(alone[0], alone[1])


async def test_interleaved_dialogues(subject: Subject) -> None:
    drafts = [two_rounds(subject, seed) for seed in (5, 6, 7)]
    one_by_one = [await subject.vectors(each.prompt(f"first {i}")) for i, each in enumerate(drafts)]
    calls = [subject.vectors(each.prompt(f"second {i}")) for i, each in enumerate(drafts)]
    for expected, actual in zip(one_by_one, await asyncio.gather(*calls), strict=True):
        assert_same(expected, actual)


async def test_generation_stays_within_its_limit(subject: Subject) -> None:
    tokens = subject.manifest.tokens
    for limit in (1, 2, 6):
        completion = await subject.engine.complete(subject.draft().say(5).prompt(max_new_tokens=limit))
        assert len(completion.token_ids) + (completion.generated is not None) <= limit
        inserted = {tokens.bos, tokens.bbox, tokens.crop, tokens.image, tokens.seg, tokens.eos}
        assert inserted.isdisjoint(completion.token_ids)


async def test_a_longer_limit_only_adds(subject: Subject) -> None:
    prompt = subject.draft().say(5).prompt()
    short = await subject.engine.complete(replace(prompt, max_new_tokens=2))
    long = await subject.engine.complete(replace(prompt, max_new_tokens=6))
    assert long.token_ids[: len(short.token_ids)] == short.token_ids


async def test_forced_rounds_before_a_free_one(subject: Subject) -> None:
    """One pass reads the features wanted and begins the answer."""
    wanted = subject.draft().say(5, 6).read().close().say(7)
    both = await subject.engine.complete(wanted.prompt("both", max_new_tokens=4))
    read = await subject.vectors(wanted.prompt("read"))
    free = replace(wanted, positions=()).prompt("free", max_new_tokens=4)
    assert len(both.features) == 1
    assert_same(both.features[0].vector, read[0])
    assert both.token_ids == (await subject.engine.complete(free)).token_ids


@pytest.mark.parametrize("limit", [1, 2, 6])
async def test_an_answer_that_must_have_its_seg(subject: Subject, limit: int) -> None:
    """The same words as without the rule, as far as they go; then the feature that a forced round would read."""
    start = subject.draft().say(5)
    free = await subject.engine.complete(start.prompt("free", limit))
    ensured = await subject.engine.complete(start.prompt("ensured", limit, ensure_seg=True))
    assert len(ensured.token_ids) < limit
    assert ensured.token_ids == free.token_ids[: len(ensured.token_ids)]
    assert ensured.generated is not None
    history = replace(start, token_ids=(*start.token_ids, *ensured.token_ids)).read()
    assert_same(ensured.generated.vector, (await subject.vectors(history.prompt("forced")))[0])


async def test_a_tenant_finds_nothing_of_another(subject: Subject) -> None:
    """Nor does it learn, by a count, what another has asked."""
    ours = await subject.engine.complete(two_rounds(subject).prompt("shared", tenant="ours"))
    theirs = await subject.engine.complete(two_rounds(subject).prompt("shared", tenant="theirs"))
    assert theirs.cached_tokens == 0
    assert_same(ours.features[1].vector, theirs.features[1].vector)


async def test_the_round_after_a_generated_answer(subject: Subject) -> None:
    """The history holds what was generated; how it came there changes nothing."""

    async def second(dialogue: str, said: Completion) -> np.ndarray:
        history = subject.draft().say(5)
        history = replace(history, token_ids=(*history.token_ids, *said.token_ids))
        return await subject.vectors(history.close().say(6).refer(5).say(7).read().prompt(dialogue))

    said = await subject.engine.complete(subject.draft().say(5).prompt("grown", max_new_tokens=5))
    assert_same(await second("grown", said), await second("fresh", said))


async def test_too_long_names_the_limit(subject: Subject) -> None:
    limit = subject.manifest.language.max_tokens
    start = subject.draft()
    room = limit - (len(start.token_ids) - 1 + subject.manifest.tower.tokens)
    full = start.say(*[5] * room).read()
    with pytest.raises(InvalidInput, match=str(limit)):
        await subject.engine.complete(full.say(5).prompt())
    with pytest.raises(InvalidInput, match=str(limit)):
        await subject.engine.complete(full.prompt(max_new_tokens=1))
    assert (await subject.engine.complete(full.prompt())).prompt_tokens == limit


async def test_placeholders_match_references(subject: Subject) -> None:
    rounds = two_rounds(subject)
    tokens = subject.manifest.tokens
    broken = [
        replace(rounds, references=()),
        replace(rounds, references=rounds.references * 2),
        replace(rounds, token_ids=tuple(t for t in rounds.token_ids if t != tokens.bbox), positions=()),
        replace(rounds, token_ids=(*rounds.token_ids, tokens.image)),
        replace(rounds, token_ids=tuple(t for t in rounds.token_ids if t != tokens.image), positions=()),
    ]
    for each in broken:
        with pytest.raises(InvalidInput):
            await subject.engine.complete(each.prompt())


async def test_ids_and_positions_lie_within_their_ranges(subject: Subject) -> None:
    rounds = two_rounds(subject)
    beyond = subject.manifest.language.vocabulary + 1_000_000
    for each in [
        replace(rounds, token_ids=(*rounds.token_ids, beyond)),
        replace(rounds, token_ids=(*rounds.token_ids, -1)),
        replace(rounds, positions=(len(rounds.token_ids),)),
        replace(rounds, positions=(-1,)),
        replace(rounds, positions=rounds.positions[::-1]),
        replace(rounds, positions=rounds.positions[:1] * 2),
    ]:
        with pytest.raises(InvalidInput):
            await subject.engine.complete(each.prompt())


async def test_pixels_and_boxes_have_their_shapes(subject: Subject) -> None:
    rounds = two_rounds(subject)
    shown, image = rounds.references[0], rounds.image
    small = replace(image, pixels=image.pixels[:-1])
    for each in [
        replace(rounds, image=small),
        replace(rounds, image=replace(image, pixels=image.pixels.astype(np.float32))),
        replace(rounds, references=(replace(shown, crop=small),)),
        replace(rounds, references=(replace(shown, box=shown.box[:3]),)),
        replace(rounds, references=(replace(shown, box=shown.box * np.float32(np.nan)),)),
    ]:
        with pytest.raises(InvalidInput):
            await subject.engine.complete(each.prompt())


async def test_a_cancelled_call_leaves_the_engine_usable(subject: Subject) -> None:
    rounds = two_rounds(subject)
    expected = await subject.vectors(rounds.prompt("before"))
    calls = [asyncio.create_task(subject.engine.complete(rounds.prompt(f"cancelled {i}"))) for i in range(4)]
    await asyncio.sleep(0)
    for call in calls[:3]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results[:3]] == [asyncio.CancelledError] * 3
    assert isinstance(results[3], Completion)
    assert_same(expected, await subject.vectors(rounds.prompt("cancelled 0")))


async def test_a_closed_engine_says_so(subject: Subject) -> None:
    if isinstance(subject.engine, SharedMemory):
        pytest.skip("shared by all tests; tests/contract/test_vllm.py closes engines of its own")
    await subject.engine.close()
    await subject.engine.close()
    with pytest.raises(Unavailable):
        await subject.engine.complete(two_rounds(subject).prompt())


async def test_it_describes_itself(subject: Subject) -> None:
    assert "/" in subject.engine.description
    done = await subject.engine.complete(draft(subject.manifest).say(5).read().prompt())
    assert subject.engine.runtimes == (done.runtime,)
    assert done.runtime.engine
    assert done.runtime.version
