"""Admission, cancellation and closing, on a core that answers when it is told to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from serving.domain import SegFeature
from serving.errors import EngineFault, Exhausted, Unavailable
from serving.llm.vllm_engine import VllmLanguage
from serving.llm.vllm_options import ON_CPU, VllmOptions, environment
from serving.llm.vllm_requests import VllmAnswer, VllmRequest
from serving.ports import Completion, Prompt
from serving.runtime.record import RuntimeRecord
from tests.scripted.prompts import Draft, draft
from tests.unit.serving.manifests import manifest

MODEL = manifest()


@dataclass
class Core:
    """Answers once ``go`` is set; a request longer than ``limit`` fails."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    alive: bool = True
    chosen_rows: bool = True
    running: int = 0
    limit: int = 10**6
    closed: int = 0
    cached_rows: tuple[int, ...] = ()
    """Not read where they are chosen."""
    asked: list[VllmRequest] = field(default_factory=list)
    record: RuntimeRecord = field(default_factory=lambda: RuntimeRecord("vllm"))
    steps: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(count=0, largest=0))

    async def answer(self, request: VllmRequest) -> VllmAnswer:
        self.running += 1
        try:
            if request.length > self.limit:
                raise EngineFault("too long for this core")
            await self.go.wait()
        finally:
            self.running -= 1
        self.asked.append(request)
        zeros = np.zeros((1, MODEL.language.feature), np.float32)
        feature = SegFeature(zeros[0], 0.0)
        read = tuple(
            None if row in self.cached_rows and row in request.chosen else feature for row in request.rows
        )
        return VllmAnswer((7,), zeros, (0.0,), 0, read)

    async def close(self) -> None:
        self.closed += 1


def engine(core: Core, max_queued: int = 4, *, chosen_rows: bool = False) -> VllmLanguage:
    options = replace(ON_CPU, max_queued=max_queued, chosen_rows=chosen_rows)
    return VllmLanguage(core, MODEL, options)  # type: ignore[arg-type]  # what is used of one


def rounds(number: int) -> Draft:
    said = draft(MODEL).read()
    for word in range(1, number):
        said = said.close().say(word).read()
    return said


async def until(core: Core, running: int) -> None:
    async with asyncio.timeout(5):
        while core.running != running:  # noqa: ASYNC110  # a fake without events of its own
            await asyncio.sleep(0.001)


async def test_a_wave_runs_at_once() -> None:
    core = Core()
    call = asyncio.create_task(engine(core).complete(rounds(3).prompt()))
    await until(core, 3)
    core.go.set()
    assert len((await call).features) == 3


async def test_chosen_rows_are_one_request_and_those_it_lacks() -> None:
    core = Core()
    core.go.set()
    assert len((await engine(core, chosen_rows=True).complete(rounds(3).prompt())).features) == 3
    (request,) = core.asked
    core.cached_rows = request.rows[:2]
    language = engine(core, chosen_rows=True)
    assert len((await language.complete(rounds(3).prompt())).features) == 3
    assert [each.rows for each in core.asked[1:]] == [request.rows, *((row,) for row in core.cached_rows)]
    assert language.counts.requests == 3


async def test_what_was_read_before_is_not_chosen_in_vain() -> None:
    """By the tenant and to the word: a longer dialogue, another's, and one of a single question are chosen."""
    core = Core()
    core.go.set()
    language = engine(core, max_queued=8, chosen_rows=True)

    async def asked(prompt: Prompt) -> list[int]:
        core.asked.clear()
        await language.complete(prompt)
        return [len(request.rows) for request in core.asked]

    assert await asked(rounds(3).prompt()) == [3]
    assert await asked(rounds(3).prompt()) == [1, 1, 1]
    assert await asked(rounds(3).prompt(tenant="another")) == [3]
    assert await asked(rounds(4).prompt()) == [1, 1, 1, 1]  # the last is computed in any case
    assert await asked(rounds(4).close().say(9).read().say(8).read().prompt()) == [6]
    assert await asked(rounds(1).prompt()) == [1]


async def test_without_the_place_each_feature_is_a_request() -> None:
    core = Core(chosen_rows=False)
    core.go.set()
    await engine(core, chosen_rows=True).complete(rounds(3).prompt())
    assert [len(request.rows) for request in core.asked] == [1, 1, 1]


async def test_chosen_rows_take_the_places_that_they_may_need() -> None:
    """Any of them may have to be asked apart: what was admitted is never refused in the middle."""
    core = Core()
    language = engine(core, chosen_rows=True)
    held = asyncio.create_task(language.complete(rounds(3).prompt()))
    await until(core, 1)
    with pytest.raises(Exhausted):
        await language.complete(rounds(2).prompt())
    core.go.set()
    await held
    assert isinstance(await language.complete(rounds(4).prompt()), Completion)


async def test_the_queue_is_counted_in_requests_and_empties() -> None:
    core = Core()
    language = engine(core)
    held = asyncio.create_task(language.complete(rounds(3).prompt()))
    await until(core, 3)
    with pytest.raises(Exhausted):
        await language.complete(rounds(2).prompt())
    last = asyncio.create_task(language.complete(rounds(1).prompt()))
    await until(core, 4)
    core.go.set()
    assert {type(done) for done in await asyncio.gather(held, last)} == {Completion}
    assert isinstance(await language.complete(rounds(4).prompt()), Completion)


async def test_a_cancel_reaches_every_request_and_frees_its_places() -> None:
    core = Core()
    language = engine(core)
    call = asyncio.create_task(language.complete(rounds(4).prompt()))
    await until(core, 4)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert core.running == 0
    core.go.set()
    assert isinstance(await language.complete(rounds(4).prompt()), Completion)


async def test_one_failure_ends_the_wave() -> None:
    core = Core(limit=10)
    with pytest.raises(EngineFault):
        await engine(core).complete(rounds(4).prompt())
    assert core.running == 0


async def test_closing_ends_what_runs() -> None:
    core = Core()
    language = engine(core)
    call = asyncio.create_task(language.complete(rounds(2).prompt()))
    await until(core, 2)
    await language.close()
    await language.close()
    with pytest.raises(Unavailable):
        await call
    with pytest.raises(Unavailable):
        await language.complete(rounds(1).prompt())
    assert (core.running, core.closed, language.alive) == (0, 1, False)


async def test_its_owner_learns_of_its_death() -> None:
    core = Core()
    language = engine(core)
    died = asyncio.create_task(language.died())
    await asyncio.sleep(0)
    assert not died.done()
    core.alive = False
    await asyncio.wait_for(died, 3)
    with pytest.raises(Unavailable):
        await language.complete(rounds(1).prompt())


def test_the_environment_lets_nothing_else_in() -> None:
    variables = environment(VllmOptions(batch_invariant=True))
    assert variables["VLLM_PLUGINS"] == "mediround"
    assert [variables[name] for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY")] == [
        "1"
    ] * 3
    assert variables["VLLM_BATCH_INVARIANT"] == "1"
    assert environment(VllmOptions())["VLLM_BATCH_INVARIANT"] == "0"
    assert [environment(options)["MEDIROUND_VLLM_SPIN"] for options in (VllmOptions(), ON_CPU)] == ["1", "0"]


def test_float32_is_float32_on_a_gpu() -> None:
    """TF32, which Triton's kernels and NVIDIA's libraries take by default, moves features by 1e-2."""
    exact = {"TRITON_F32_DEFAULT": "ieee", "NVIDIA_TF32_OVERRIDE": "0"}
    assert exact.items() <= environment(VllmOptions(dtype="float32")).items()
    assert not exact.keys() & environment(VllmOptions()).keys()
