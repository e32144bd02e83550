"""More than the attention cache holds, and calls given up at any moment: answers are as for calls made alone, and
nothing is left.

Run by tests/llm/test_gpu_runner.py alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from serving.bundle import Bundle
from serving.llm import vllm_core
from serving.llm.vllm_engine import VllmLanguage
from serving.llm.vllm_options import ON_CPU
from serving.ports import Completion, Prompt
from tests.contract.test_vllm import idle
from tests.llm.gpu_runner.watched import WatchedWorker
from tests.scripted.prompts import draft

pytestmark = pytest.mark.asyncio(loop_scope="session")
BLOCK, BLOCKS = 32, 30
LONGEST = 767
"""Tokens; vLLM wants room for one such prompt, and has little more."""
STEP = 128
"""Tokens: a prompt takes two steps or three."""
ANSWER = 40
"""Tokens of an answer: a block or two more than the prompt took."""
SAME = 1e-4


@dataclass(frozen=True, slots=True)
class Pressed:
    """One vLLM with little room, asked with and without chosen rows; and what it answers to one call at a time."""

    rows: VllmLanguage
    plain: VllmLanguage
    prompts: list[Prompt]
    alone: list[Completion]
    seconds: float
    """That these took."""

    def engine(self, number: int) -> VllmLanguage:
        return (self.rows, self.plain)[number % 2]


def small(bundle: Bundle) -> Bundle:
    language = bundle.manifest.language.model_copy(update={"max_tokens": LONGEST})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"language": language}))


def prompt(bundle: Bundle, seed: int) -> Prompt:
    """Three features, two of them behind references, and an answer of many steps."""
    said = draft(bundle.manifest, seed)
    for number in range(3):
        said = said.say(*[(7 * seed + 3 * number + word) % 50 for word in range(25)]).read().close()
        said = said.refer(100 * seed + number)
    return said.say(5).prompt(max_new_tokens=ANSWER, tenant=f"{seed}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pressed(random_bundle: Bundle) -> AsyncIterator[Pressed]:
    bundle = small(random_bundle)
    language = bundle.manifest.language
    of_a_block = 2 * language.layers * language.kv_heads * language.head_dim * 4 * BLOCK
    options = replace(
        ON_CPU, chosen_rows=True, max_num_batched_tokens=STEP, kv_cache_bytes=BLOCKS * of_a_block, block_size=BLOCK
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_core, "CHOSEN_ROWS_TAP", f"{WatchedWorker.__module__}.{WatchedWorker.__name__}")
        rows = await VllmLanguage.start(bundle, options)
    plain = VllmLanguage(rows._core, bundle.manifest, replace(options, chosen_rows=False))
    prompts = [prompt(bundle, seed) for seed in range(8)]
    begun = time.monotonic()
    alone = [await rows.complete(replace(each, tenant=f"alone {each.tenant}")) for each in prompts]
    yield Pressed(rows, plain, prompts, alone, time.monotonic() - begun)
    await rows.close()


def measured(name: str) -> float:
    """A metric of vLLM's, over its labels."""
    return sum(s.value for family in REGISTRY.collect() for s in family.samples if s.name == name)


def assert_as_alone(found: Completion, alone: Completion) -> None:
    assert found.token_ids == alone.token_ids
    for one, other in zip(found.features, alone.features, strict=True):
        assert np.abs(one.vector - other.vector).max() < SAME
        assert abs(one.log_probability - other.log_probability) < SAME


async def assert_nothing_is_held(pressed: Pressed) -> None:
    """A step tells the worker what ended before it, and vLLM's metrics what is in use after it."""
    assert await idle(pressed.rows)
    assert_as_alone(await pressed.rows.complete(replace(pressed.prompts[0], tenant="after")), pressed.alone[0])
    assert await pressed.rows._core._llm.collective_rpc("chosen_rows_held") == [0]
    assert measured("vllm:kv_cache_usage_perc") == 0
    assert measured("vllm:num_requests_running") == measured("vllm:num_requests_waiting") == 0


async def test_it_is_the_runner_of_a_gpu(pressed: Pressed) -> None:
    llm = pressed.rows._core._llm
    assert await llm.collective_rpc("has_the_runner_of_a_gpu") == [True]
    assert llm.vllm_config.scheduler_config.async_scheduling
    assert llm.vllm_config.cache_config.num_gpu_blocks == BLOCKS


async def test_what_is_preempted_is_answered_as_if_alone(pressed: Pressed) -> None:
    before = measured("vllm:num_preemptions_total")
    asked = [
        pressed.engine(number).complete(replace(each, tenant=f"{number} {each.tenant}"))
        for number in range(2)
        for each in pressed.prompts
    ]
    together = await asyncio.gather(*asked)
    assert measured("vllm:num_preemptions_total") - before >= 3
    for found, alone in zip(together, [*pressed.alone, *pressed.alone], strict=True):
        assert_as_alone(found, alone)
    await assert_nothing_is_held(pressed)


async def test_a_storm_of_cancels_leaves_nothing_behind(pressed: Pressed) -> None:
    """Each at a moment of its own, while blocks are short; some are answered before their moment comes."""
    draw = np.random.default_rng(1)

    async def give_up(number: int) -> Completion | None:
        asked = replace(pressed.prompts[number % len(pressed.prompts)], tenant=f"storm {number}")
        try:
            async with asyncio.timeout(draw.uniform(0, pressed.seconds / 2)):
                return await pressed.engine(number).complete(asked)
        except TimeoutError:
            return None

    answers = await asyncio.gather(*(give_up(number) for number in range(48)))
    given_up = sum(answer is None for answer in answers)
    assert given_up >= 24
    assert pressed.rows.alive
    await assert_nothing_is_held(pressed)
