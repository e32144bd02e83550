"""What is vLLM's own: batching, prefix reuse, admission, aborts, and failures that stay with their request."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest

from serving.bundle import Bundle, BundleError
from serving.errors import EngineFault, Exhausted, InvalidInput, Unavailable
from serving.llm.vllm_engine import VllmLanguage
from serving.llm.vllm_options import ON_CPU
from serving.llm.vllm_requests import MediaItem, VllmRequest, requests
from serving.ports import Completion, Prompt
from tests.contract.conftest import MAX_QUEUED, OPTIONS, needs_vllm
from tests.scripted.prompts import Draft, draft

pytestmark = pytest.mark.asyncio(loop_scope="session")
BLOCK = 32
ON_V2 = os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1"
"""In tests/llm/test_gpu_runner.py, whose runner is interpreted here."""


def dialogue(bundle: Bundle, rounds: int, image_seed: int = 1) -> Draft:
    """Forced rounds, each of which refers to an earlier mask but the first."""
    said = draft(bundle.manifest, image_seed).say(5, 6, 7).read()
    for number in range(1, rounds):
        said = said.close().say(8).refer(number).say(9, 10).read()
    return said


async def idle(engine: VllmLanguage) -> bool:
    """Whether vLLM holds no request, soon."""
    for _ in range(100):
        if engine.unfinished == 0:
            return True
        await asyncio.sleep(0.05)
    return False


def one_request(bundle: Bundle) -> VllmRequest:
    return requests(dialogue(bundle, 2).prompt(tenant="checks"), bundle.manifest, chosen_rows=False)[-1]


async def test_concurrent_prompts_share_steps(vllm_language: VllmLanguage, random_bundle: Bundle) -> None:
    """Long answers, so that they overlap however slowly they arrive; where steps are slow, shorter ones do."""
    before, tokens = vllm_language.counts, 40 if ON_V2 else 200
    prompts = [
        dialogue(random_bundle, 1, seed).prompt(tenant="steps", max_new_tokens=tokens) for seed in range(12)
    ]
    await asyncio.gather(*(vllm_language.complete(prompt) for prompt in prompts))
    after = vllm_language.counts
    assert after.requests - before.requests == 24
    sampled = after.generated_tokens - before.generated_tokens
    assert sampled > tokens
    assert after.steps - before.steps < 0.9 * sampled
    assert after.largest_step > 1


async def test_a_round_computes_its_tail_alone(vllm_language: VllmLanguage, random_bundle: Bundle) -> None:
    """Live rounds: what each computes anew is its own words, and what a block rounds up."""
    earlier = 0
    for rounds in range(1, 6):
        said = replace(dialogue(random_bundle, rounds), positions=())
        completion = await vllm_language.complete(said.read().prompt(tenant="tails"))
        new = completion.prompt_tokens - earlier
        assert completion.prompt_tokens - completion.cached_tokens <= new + BLOCK
        earlier = completion.prompt_tokens


async def test_a_wave_computes_little_more_than_its_longest(
    vllm_language: VllmLanguage, random_bundle: Bundle
) -> None:
    before = vllm_language.counts
    completion = await vllm_language.complete(dialogue(random_bundle, 8).prompt(tenant="wave"))
    computed = vllm_language.counts.computed_tokens - before.computed_tokens
    assert len(completion.features) == 8
    assert computed < completion.prompt_tokens + 8 * BLOCK


async def test_chosen_rows_compute_a_wave_once(vllm_with_rows: VllmLanguage, random_bundle: Bundle) -> None:
    before = vllm_with_rows.counts
    completion = await vllm_with_rows.complete(dialogue(random_bundle, 8).prompt(tenant="rows once"))
    after = vllm_with_rows.counts
    assert len(completion.features) == 8
    assert after.requests - before.requests == 1
    assert after.generated_tokens - before.generated_tokens == 1
    assert after.computed_tokens - before.computed_tokens == completion.prompt_tokens
    assert completion.cached_tokens == 0


async def test_rows_that_the_prefix_cache_has_are_read_all_the_same(
    vllm_with_rows: VllmLanguage, random_bundle: Bundle
) -> None:
    """The first rounds lie in whole blocks that are kept; they are asked apart, for less than the prompt again."""
    prompt = dialogue(random_bundle, 8).prompt(tenant="rows again")
    first = await vllm_with_rows.complete(prompt)
    unaware = VllmLanguage(vllm_with_rows._core, random_bundle.manifest, OPTIONS)
    second = await unaware.complete(prompt)
    assert 1 < unaware.counts.requests <= 8
    assert unaware.counts.computed_tokens < 8 * BLOCK
    assert second.cached_tokens > 0
    made = unaware.counts.requests
    third = await unaware.complete(prompt)
    assert unaware.counts.requests - made == len(first.features)  # none in vain
    assert _same(first, second)
    assert _same(first, third)


async def test_chosen_rows_beside_others_in_chunks(vllm_with_rows: VllmLanguage, random_bundle: Bundle) -> None:
    """More tokens than a step takes, so that prompts are cut; long answers and plain requests among them."""
    prompts = [_wordy(random_bundle, seed) for seed in range(6)]
    of_a_step = vllm_with_rows._core._llm.vllm_config.scheduler_config.max_num_batched_tokens
    assert sum(len(prompt.token_ids) for prompt in prompts) > of_a_step
    alone = [await vllm_with_rows.complete(replace(prompt, tenant="alone")) for prompt in prompts]
    plain = dialogue(random_bundle, 1).prompt(tenant="beside", max_new_tokens=20)
    *beside, _ = await asyncio.gather(*map(vllm_with_rows.complete, [*prompts, plain]))
    assert all(map(_same, alone, beside))


async def test_nothing_is_generated_after_the_feature(vllm_language: VllmLanguage, random_bundle: Bundle) -> None:
    before = vllm_language.counts
    completion = await vllm_language.complete(dialogue(random_bundle, 3).prompt(tenant="forced"))
    assert vllm_language.counts.generated_tokens - before.generated_tokens == len(completion.features) == 3


async def test_a_full_queue_refuses_and_goes_on(vllm_language: VllmLanguage, random_bundle: Bundle) -> None:
    prompts = [dialogue(random_bundle, 1, seed).prompt(tenant="queue") for seed in range(MAX_QUEUED + 5)]
    results = await asyncio.gather(*map(vllm_language.complete, prompts), return_exceptions=True)
    refused = [result for result in results if isinstance(result, Exhausted)]
    assert len(refused) == 5
    assert all(error.retry_after > 0 for error in refused)
    assert sum(isinstance(result, Completion) for result in results) == MAX_QUEUED
    assert await idle(vllm_language)


async def test_a_wave_is_admitted_as_a_whole(vllm_language: VllmLanguage, random_bundle: Bundle) -> None:
    wave = dialogue(random_bundle, 4).prompt(tenant="whole")
    singles = [dialogue(random_bundle, 1, seed).prompt(tenant="whole") for seed in range(MAX_QUEUED - 3)]
    before = vllm_language.counts.requests
    results = await asyncio.gather(*map(vllm_language.complete, [*singles, wave]), return_exceptions=True)
    assert isinstance(results[-1], Exhausted)
    assert vllm_language.counts.requests - before == len(singles)


async def test_more_than_it_ever_admits_is_the_callers_to_change(
    vllm_language: VllmLanguage, random_bundle: Bundle
) -> None:
    many = dialogue(random_bundle, 1)
    for _ in range(MAX_QUEUED):
        many = many.say(3).read()
    with pytest.raises(InvalidInput, match="must be at most 40 with the answer"):
        await vllm_language.complete(many.prompt())
    with pytest.raises(InvalidInput, match="references"):
        await vllm_language.complete(dialogue(random_bundle, ON_CPU.max_references + 2).prompt())


@pytest.mark.parametrize("name", ["vllm_language", "vllm_with_rows"])
async def test_a_storm_of_cancels_leaves_nothing_behind(
    name: str, request: pytest.FixtureRequest, random_bundle: Bundle
) -> None:
    """Cancelled before, while and after vLLM takes the request; generating and long ones among them."""
    engine: VllmLanguage = request.getfixturevalue(name)
    for wait in (0.0, 0.005, 0.02, 0.1):
        prompts = [dialogue(random_bundle, 2, seed).prompt(tenant="storm", max_new_tokens=8) for seed in range(8)]
        prompts += [_wordy(random_bundle, seed, tenant=f"storm {wait}") for seed in range(4)]
        calls = [asyncio.create_task(engine.complete(prompt)) for prompt in prompts]
        await asyncio.sleep(wait)
        for call in calls:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert not {type(result) for result in results} - {asyncio.CancelledError, Completion}
        assert await idle(engine)
    assert engine.alive
    # A step tells the worker what was aborted before it.
    assert (await engine.complete(dialogue(random_bundle, 2).prompt(tenant="after the storm"))).features
    assert await engine._core._llm.collective_rpc("chosen_rows_held") == [0]


@pytest.mark.parametrize(
    "change",
    [
        {"token_ids": (1, 2, 3)},
        {"crops": ()},
        {"boxes": ()},
        {"image": ()},
        {"image": (MediaItem("wrong", np.zeros((1, 112, 112, 3), np.uint8)),)},
        {"image": (MediaItem("wrong", np.zeros((8, 8, 3), np.uint8)),)},
        {"crops": (MediaItem("wrong", np.zeros((112, 112, 3), np.float32)),)},
        {"boxes": (MediaItem("wrong", np.full(4, np.nan, np.float32)),)},
        {"boxes": (MediaItem("wrong", np.zeros(5, np.float32)),)},
        {"boxes": (MediaItem("wrong", np.zeros(4, np.float32)), MediaItem("more", np.zeros(4, np.float32)))},
    ],
    ids=str,
)
async def test_the_processor_refuses_what_would_kill_the_engine(
    vllm_language: VllmLanguage, random_bundle: Bundle, change: dict[str, object]
) -> None:
    """Behind the engine's own checks: each of these was seen to end the engine, or to yield a wrong feature."""
    core = vllm_language._core
    with pytest.raises(EngineFault):
        await core.answer(replace(one_request(random_bundle), **change))
    assert core.alive
    assert (await core.answer(one_request(random_bundle))).token_ids


async def test_every_id_that_vllm_renders_has_a_row(vllm_language: VllmLanguage, random_bundle: Bundle) -> None:
    """vLLM 0.33 refuses what has none, without a tokenizer, too; the image's placeholder has none."""
    from serving.llm.vllm_core import _prompt  # noqa: PLC0415  # only where vLLM is installed

    request, manifest = one_request(random_bundle), random_bundle.manifest
    at = request.token_ids.index(manifest.tokens.image)
    for ids in (request.token_ids, (*request.token_ids[:at], manifest.tokens.seg, *request.token_ids[at:])):
        asked = _prompt(replace(request, token_ids=ids))
        rendered = (await vllm_language._core._llm.renderer.render_cmpl_async([asked]))[0]
        assert all(0 <= token < manifest.language.vocabulary for token in rendered["prompt_token_ids"])
        assert len(rendered["prompt_token_ids"]) == len(ids) - 1 + manifest.tower.tokens
        (image,) = rendered["mm_placeholders"]["image"]  # where its placeholder was, whatever stands before
        assert (image.offset, image.length) == (ids.index(manifest.tokens.image), manifest.tower.tokens)


async def test_an_image_is_known_by_its_pixels(vllm_language: VllmLanguage, random_bundle: Bundle) -> None:
    """Of one tenant, with the same words: the prefix cache takes no image for another."""
    seen = [
        (await vllm_language.complete(dialogue(random_bundle, 2, seed).prompt(tenant="images")))
        for seed in (1, 2, 1)
    ]
    assert _same(seen[0], seen[2])
    assert not _same(seen[0], seen[1])
    assert seen[0].cached_tokens == seen[1].cached_tokens
    assert seen[2].cached_tokens > seen[0].cached_tokens


async def test_a_pipeline_is_refused_at_the_start(random_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its last worker samples, and the tap would lack the others."""
    needs_vllm()
    from serving.llm import vllm_core  # noqa: PLC0415  # only where vLLM is installed

    made = vllm_core._arguments
    monkeypatch.setattr(vllm_core, "_arguments", lambda *given: replace(made(*given), pipeline_parallel_size=2))
    with pytest.raises(RuntimeError, match="Pipeline parallelism is not supported for this model"):
        await vllm_core.VllmCore.start(random_bundle.vllm_model(), random_bundle.manifest, ON_CPU)


async def test_an_id_without_a_row_is_refused(vllm_language: VllmLanguage, random_bundle: Bundle) -> None:
    core, request = vllm_language._core, one_request(random_bundle)
    for wrong in (-1, random_bundle.manifest.language.vocabulary + 1):
        with pytest.raises(EngineFault):
            await core.answer(replace(request, token_ids=(*request.token_ids, wrong)))
    assert (await core.answer(request)).token_ids


async def test_without_the_tap_no_answer_is_believed(random_bundle: Bundle) -> None:
    needs_vllm()
    from serving.llm.vllm_core import VllmCore  # noqa: PLC0415  # only where vLLM is installed

    core = await VllmCore.start(random_bundle.vllm_model(), random_bundle.manifest, ON_CPU, tap=False)
    assert not core.chosen_rows
    engine = VllmLanguage(core, random_bundle.manifest, ON_CPU)
    assert engine.alive
    with pytest.raises(EngineFault, match="tap is missing"):
        await engine.complete(dialogue(random_bundle, 2).prompt())
    assert not engine.alive
    await engine.close()
    await engine.close()
    with pytest.raises(Unavailable):
        await engine.complete(dialogue(random_bundle, 2).prompt())


async def test_a_killed_engine_says_so_at_once(random_bundle: Bundle) -> None:
    needs_vllm()
    others = {child.pid for child in multiprocessing.active_children()}
    engine = await VllmLanguage.start(random_bundle, ON_CPU)
    died = asyncio.create_task(engine.died())
    (child,) = [process for process in multiprocessing.active_children() if process.pid not in others]
    os.kill(child.pid or 0, signal.SIGSTOP)  # or some might be answered by then
    calls = [asyncio.create_task(engine.complete(_long(random_bundle, seed))) for seed in range(8)]
    await asyncio.sleep(0.1)
    assert not died.done()
    os.kill(child.pid or 0, signal.SIGKILL)
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 3)
    assert {type(result) for result in results} == {Unavailable}
    await asyncio.wait_for(died, 3)
    with pytest.raises(Unavailable):
        await engine.complete(_long(random_bundle, 0))
    await engine.close()


async def test_what_vllm_measures_names_nobody(vllm_language: VllmLanguage, random_bundle: Bundle) -> None:
    from prometheus_client import REGISTRY, generate_latest  # noqa: PLC0415  # comes with vLLM

    await vllm_language.complete(dialogue(random_bundle, 2).prompt("session-of-jane", tenant="jane-doe"))
    measured = generate_latest(REGISTRY).decode()
    computed = re.search(
        rf'vllm:prompt_tokens_total{{.*model_name="{random_bundle.manifest.name}"}} (.*)', measured
    )
    assert computed is not None
    assert float(computed[1]) > 0
    for name in ("jane", hashlib.sha256(b"jane-doe").hexdigest(), str(random_bundle.directory)):
        assert name not in measured


async def test_a_bundle_without_its_directory_names_the_fix(random_bundle: Bundle) -> None:
    files = {name: digest for name, digest in random_bundle.manifest.files.items() if "/" not in name}
    bare = replace(random_bundle, manifest=random_bundle.manifest.model_copy(update={"files": files}))
    with pytest.raises(BundleError, match="exporters bundle"):
        await VllmLanguage.start(bare, ON_CPU)


def _wordy(bundle: Bundle, seed: int, tenant: str = "wordy") -> Prompt:
    """Three rounds of many words each."""
    said = draft(bundle.manifest, seed)
    for number in range(3):
        said = said.refer(number).say(*[(seed + number + word) % 40 for word in range(150)]).read().close()
    return said.prompt(tenant=tenant)


def _same(first: Completion, second: Completion) -> bool:
    """The same features, but for the order of sums."""
    pairs = zip(first.features, second.features, strict=True)
    return all(np.abs(one.vector - other.vector).max() < 1e-5 * np.abs(one.vector).max() for one, other in pairs)


def _long(bundle: Bundle, seed: int) -> Prompt:
    """An answer that takes many steps, as far as the model lets it."""
    return dialogue(bundle, 2, seed).prompt(tenant="long", max_new_tokens=2000)
