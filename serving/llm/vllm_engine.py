"""The language half on vLLM: continuous batching, and prefix caching across rounds and dialogues.

Knows admission, order and cancellation. Does not know how a prompt becomes requests
(``serving.llm.vllm_requests``), vLLM's API (``serving.llm.vllm_core``), text, sessions or masks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.bundle import Bundle, Manifest
from serving.errors import Exhausted, InvalidInput, Unavailable
from serving.llm.validation import check_prompt
from serving.llm.vllm_options import VllmOptions, environment
from serving.llm.vllm_repeats import Repeats
from serving.llm.vllm_requests import VllmAnswer, VllmRequest, completion, requests, unread
from serving.llm.warmup import first_prompt
from serving.ports import Completion, Prompt
from serving.runtime.record import RuntimeRecord
from serving.runtime.tasks import wait_until_done

if TYPE_CHECKING:
    from serving.llm.vllm_core import VllmCore

__all__ = ["VllmCounts", "VllmLanguage", "VllmOptions"]
LIVENESS_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class VllmCounts:
    """What the engine has done since it started; image tokens included."""

    requests: int
    computed_tokens: int
    """Of prompts."""
    cached_tokens: int
    """Of prompts: taken from the prefix cache instead."""
    generated_tokens: int
    """Sampled; in a forced request, one that is thrown away."""
    steps: int
    """Of the engine, those that sampled."""
    largest_step: int
    """Most requests sampled in one step."""


class VllmLanguage:
    """A LanguageEngine; ``start`` makes one. All calls belong to the event loop that started it."""

    def __init__(self, core: VllmCore, manifest: Manifest, options: VllmOptions) -> None:
        self._core, self._manifest, self._options = core, manifest, options
        self._record = core.record
        self._chooses_rows, self._repeats = options.chosen_rows and core.chosen_rows, Repeats()
        self._running: set[asyncio.Task[VllmAnswer]] = set()
        self._admitted = 0
        self._closed = False
        self._requests = self._computed = self._cached = self._generated = 0

    @classmethod
    async def start(cls, bundle: Bundle, options: VllmOptions) -> VllmLanguage:
        """Start vLLM's processes on the bundle and read one prompt: what is returned is ready.

        Blocks the event loop while vLLM starts. Sets environment variables of this process.

        Raises:
            BundleError: the bundle has no directory for vLLM.
            EngineFault: the first answer carries no features.
            RuntimeError: vLLM is not installed, or does not start; the message says why.
        """
        model = bundle.vllm_model()
        os.environ.update(environment(options))
        try:
            from serving.llm.vllm_core import VllmCore  # noqa: PLC0415  # imports vLLM, which reads the environment
        except ImportError as error:
            raise RuntimeError(f"vLLM cannot be imported ({error}): make env-vllm, or install '.[gpu]'") from error
        engine = cls(await VllmCore.start(model, bundle.manifest, options), bundle.manifest, options)
        try:
            await engine.complete(first_prompt(bundle.manifest))
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def description(self) -> str:
        return f"vllm/{self._options.dtype}"

    @property
    def runtimes(self) -> tuple[RuntimeRecord, ...]:
        return (self._record,)

    @property
    def alive(self) -> bool:
        """Whether it can answer. False is for good: end the process, so that its supervisor starts another."""
        return not self._closed and self._core.alive

    async def died(self) -> None:
        """Return when ``alive`` is no more."""
        while self.alive:  # noqa: ASYNC110  # vLLM sends no death notice, so poll
            await asyncio.sleep(LIVENESS_SECONDS)

    @property
    def unfinished(self) -> int:
        """Requests that vLLM holds."""
        return self._core.unfinished

    @property
    def counts(self) -> VllmCounts:
        steps = self._core.steps
        return VllmCounts(
            self._requests, self._computed, self._cached, self._generated, steps.count, steps.largest
        )

    async def complete(self, prompt: Prompt) -> Completion:
        """All features wanted at once, and generation beside them. See ``LanguageEngine``.

        Raises:
            InvalidInput: too long, placeholders that do not match the references, or more of either than the
                engine was started for.
            Exhausted: as many requests as are admitted run or wait.
            Unavailable: the engine is dead, or closes.
            EngineFault: vLLM failed, or its answer carries no features.
        """
        check_prompt(prompt, self._manifest)
        count = len(prompt.feature_positions) + (prompt.max_new_tokens > 0)
        self._admit(prompt, count)
        try:
            parts = apart = requests(prompt, self._manifest, chosen_rows=False)
            if self._chooses_rows and len(apart) > 1 and not self._repeats.are(apart):
                parts = requests(prompt, self._manifest, chosen_rows=True)
            answers = await self._answers(parts)
            if more := unread(prompt, self._manifest, parts, answers):
                parts, answers = parts + more, answers + await self._answers(more)
        finally:
            self._admitted -= count
        self._repeats.add(apart)
        self._count(parts, answers)
        return completion(prompt, self._manifest, parts, answers, self._record)

    async def close(self) -> None:
        """Give up what runs and end vLLM's processes. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for task in self._running:
            task.cancel()
        await self._core.close()

    def _admit(self, prompt: Prompt, count: int) -> None:
        """A prompt is admitted as a whole: half a wave is of no use."""
        limit = self._options.max_queued
        if not self.alive:
            raise Unavailable("the language engine is closed or dead")
        if len(prompt.references) > self._options.max_references:
            words = f"must be at most {self._options.max_references}"
            raise InvalidInput("prompt.references", words)
        if count > limit:
            words = f"must be at most {limit} with the answer that is generated; there are {count}"
            raise InvalidInput("prompt.feature_positions", words)
        if self._admitted + count > limit:
            raise Exhausted(f"the language engine's queue is full ({limit} requests)")
        self._admitted += count

    async def _answers(self, parts: Sequence[VllmRequest]) -> list[VllmAnswer]:
        tasks = [asyncio.create_task(self._core.answer(request)) for request in parts]
        self._running.update(tasks)
        try:
            return await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            raise Unavailable("the language engine is closing") from None
        finally:
            for task in tasks:
                task.cancel()
                await wait_until_done(task)
            self._running.difference_update(tasks)

    def _count(self, parts: Sequence[VllmRequest], answers: Sequence[VllmAnswer]) -> None:
        for request, answer in zip(parts, answers, strict=True):
            self._requests += 1
            self._computed += request.length - answer.cached_tokens
            self._cached += answer.cached_tokens
            self._generated += len(answer.token_ids)
