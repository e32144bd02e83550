"""One dialogue, wave by wave: the file to read first.

A live round is a dialogue of one question; a dialogue known in advance is read in waves, each one language
pass for every ``[SEG]`` that is reachable and one decode of their masks on the shared embedding. Knows the
order of work. Does not know gRPC, tokens' text, how images are resized, how engines run, or where
embeddings lie.

Concurrency: everything here runs on one event loop. Sessions interleave freely; one session's requests wait
for each other in its store, and the one whose turn it is passes the gate before engines are asked. Engines
bring their own threads; rounds' pixels are worked on in ``pixel_executor``, those of new sessions in
``opening_executor``: rounds do not wait for large images. The image is encoded beside the first
language pass. A cancelled request stops its engines' work, gives its lease and its admission back, and leaves its
session as the last finished wave left it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np

from serving import request_context, wave
from serving.domain import (
    U8,
    CacheUse,
    Correction,
    CorrectionPolicy,
    Priority,
    Question,
    Reference,
    RoundResult,
    SegFeature,
    Segmentation,
    Session,
    SourceImage,
    Timings,
)
from serving.errors import InvalidInput, InvalidQuestion, PreconditionFailed
from serving.geometry import Geometry
from serving.observer import Observer, WaveTerms
from serving.ports import (
    Completion,
    EmbeddingLease,
    EmbeddingStore,
    ExpectedWork,
    Gate,
    LanguageEngine,
    Prompt,
    SessionStore,
    VisionEngine,
)
from serving.prompt import PromptTemplate, Turn
from serving.runtime.stopwatch import Stopwatch
from serving.runtime.tasks import run_in_executor, wait_until_done
from serving.wave import DialoguePlan, WaveItem

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HeldEmbedding:
    """An embedding that this request holds, and the seconds it took to have it."""

    lease: EmbeddingLease
    seconds: float


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """Answers rounds. Every collaborator is given; see ``serving.__main__`` for which."""

    language: LanguageEngine
    vision: VisionEngine
    embeddings: EmbeddingStore
    sessions: SessionStore
    gate: Gate
    observer: Observer
    form: PromptTemplate
    geometry: Geometry
    pixel_executor: Executor
    opening_executor: Executor
    max_rounds: int

    async def open(self, caller: str, rgb: U8, executor: Executor | None = None) -> Session:
        """Open a session on an RGB uint8 (H, W, 3) image. Raises Exhausted when no more sessions are held.

        ``executor`` prepares it; ``opening_executor`` by default, where images are decoded, too.
        """
        prepare = partial(self.geometry.source_image, rgb)
        image = await run_in_executor(executor or self.opening_executor, prepare)
        session = Session(secrets.token_urlsafe(16), caller, image)
        await self.sessions.create(session)
        return session

    async def close(self, session_id: str, caller: str) -> None:
        """Close a session. Raises NotFound when the caller has none of this id."""
        await self.sessions.close(session_id, caller)

    async def ask(
        self,
        session_id: str,
        caller: str,
        question: Question,
        correction: Correction,
        priority: Priority = Priority.INTERACTIVE,
    ) -> RoundResult:
        """Answer one live round; see ``segment``. Raises InvalidInput for policy REFERENCED: no round is known to
        refer to this one.
        """
        if correction.policy is CorrectionPolicy.REFERENCED:
            raise InvalidInput(
                "correction.policy",
                "must be ALWAYS or OFF for a single round: REFERENCED needs a dialogue known in advance",
            )
        async with aclosing(self.segment(session_id, caller, [question], correction, priority)) as results:
            # To its end: to the gate, work that is left early is not done.
            [result] = [each async for each in results]
            return result

    async def segment(
        self,
        session_id: str,
        caller: str,
        questions: Sequence[Question],
        correction: Correction,
        priority: Priority = Priority.INTERACTIVE,
    ) -> AsyncGenerator[RoundResult]:
        """Answer questions known in advance; results come as soon as their wave is decoded.

        Raises:
            InvalidQuestion: a reference to a round that does not exist, too many rounds or tokens. Known before
                the first wave, but for the length of a dialogue with free answers.
            PreconditionFailed: a reference to a round without a mask.
            Exhausted: the session store is full, or too much work waits.

        Whatever is raised, results sent before stay valid and stay part of the session.
        """
        arrival = Stopwatch()
        async with self.sessions.exclusive(session_id, caller) as opened:
            known = self.embeddings.holds(opened.image.encoder.key)
            session, plan = opened, self._plan(opened, questions, correction, known=known)
            async with (
                self.gate.admitted(plan.work, caller, priority),
                self._embedding(session.image, priority) as embedding,
            ):
                queue = arrival.seconds
                timings = Timings(queue=queue, total=queue)
                for number, items in enumerate(plan.waves):
                    with request_context.prioritised(priority):
                        session, results = await self._step(session, number, items, embedding, timings)
                    correctable = wave.correctable(items, results)
                    self.observer.wave(results, WaveTerms(correction.threshold, priority, correctable))
                    for result in results:
                        yield result
                    timings = Timings()

    def _plan(
        self, session: Session, questions: Sequence[Question], correction: Correction, *, known: bool
    ) -> DialoguePlan:
        """What will be asked of the engines, wave by wave; ``known``: but for the embedding, which is there.

        Pure. Raises InvalidQuestion for what cannot be asked.
        """
        first = len(session.rounds)
        self._check(first, questions)
        turns = self._turns(session, questions)
        thresholds = wave.thresholds(first, questions, correction)
        items = [
            WaveItem(first + i, threshold, question.refer_to, turn)
            for i, (question, threshold, turn) in enumerate(zip(questions, thresholds, turns, strict=True))
        ]
        groups = wave.waves(questions, first)
        work = ExpectedWork(encodes=not known, passes=len(groups), masks=len(questions))
        return DialoguePlan(tuple(tuple(items[i] for i in group) for group in groups), work)

    def _check(self, first: int, questions: Sequence[Question]) -> None:
        if first + len(questions) > self.max_rounds:
            words = f"a session may hold at most {self.max_rounds} rounds, this one has {first}; open a new one"
            raise InvalidQuestion(None, "", words)
        for position, question in enumerate(questions):
            if question.refer_to is not None and not 0 <= question.refer_to < first + position:
                words = f"must be the index of a round before round {first + position}; it is {question.refer_to}"
                if first + position == 0:
                    words = "must be absent: the session has no earlier round to refer to"
                raise InvalidQuestion(position, "refer_to", words)

    def _turns(self, session: Session, questions: Sequence[Question]) -> list[Turn]:
        """The tokens of every question; refuses a dialogue that is too long whatever will be answered."""
        turns = []
        for position, question in enumerate(questions):
            try:
                turns.append(self.form.turn(question, first=not session.rounds and position == 0))
            except InvalidInput as error:
                raise InvalidQuestion(position, error.field, error.description) from None
        wave.check_length(session, turns, self.form)
        return turns

    async def _step(
        self,
        session: Session,
        number: int,
        planned: Sequence[WaveItem],
        embedding: asyncio.Task[HeldEmbedding],
        timings: Timings,
    ) -> tuple[Session, list[RoundResult]]:
        """One wave, prepared, read, decoded and remembered: one language pass and one batch of masks."""
        with timings.stage("total"):
            with timings.stage("prepare"):
                items = [replace(item, reference=await self._reference(session, item)) for item in planned]
            held_before = number > 0 and embedding.done()
            with timings.stage("language"):
                completion = await self._complete(wave.prompt(session, items, self.form))
            features = wave.features(items, completion)
            held = await embedding if any(features) else None
            segmentations = await self._decode(session.image, items, features, held, timings)
            rounds, answers = wave.rounds(items, completion, segmentations, self.form)
            session = await self.sessions.append(session, rounds)
        hit = held is not None and (held_before or held.lease.hit)
        timings.encode = 0.0 if hit or held is None else held.seconds
        cache = CacheUse(hit, completion.cached_tokens, completion.prompt_tokens, number)
        parts = zip(items, answers, segmentations, strict=True)
        return session, [RoundResult(i.index, words, s, i.reference, timings, cache) for i, words, s in parts]

    async def _reference(self, session: Session, item: WaveItem) -> Reference | None:
        if item.refer_to is None:
            return None
        mask = session.rounds[item.refer_to].mask
        if mask is None:
            raise PreconditionFailed(f"round {item.refer_to} has no mask to refer to")
        return await self._pixels(self.geometry.reference, session.image, mask, item.refer_to)

    async def _complete(self, prompt: Prompt) -> Completion:
        """A prompt that the engine refuses is one that these questions make together."""
        try:
            return await self.language.complete(prompt)
        except InvalidInput as error:
            raise InvalidQuestion(None, "", error.description) from error

    async def _decode(
        self,
        image: SourceImage,
        items: Sequence[WaveItem],
        features: Sequence[SegFeature | None],
        held: HeldEmbedding | None,
        timings: Timings,
    ) -> list[Segmentation | None]:
        """Decode the features that there are as one batch, and bring the masks to the image's size."""
        if held is None:
            return [None] * len(features)
        limits = [item.threshold for item, feature in zip(items, features, strict=True) if feature]
        with timings.stage("decode"):
            decoded = await self.vision.decode(held.lease, wave.vectors(features), np.array(limits, np.float32))
        with timings.stage("postprocess"):
            masks = await self._pixels(lambda: [self.geometry.mask(logits, image) for logits in decoded.logits])
        return wave.segmentations(features, decoded, masks)

    @asynccontextmanager
    async def _embedding(
        self, image: SourceImage, priority: Priority
    ) -> AsyncIterator[asyncio.Task[HeldEmbedding]]:
        """The image's embedding, on its way while the block runs, given back after it."""
        with request_context.prioritised(priority):
            task = asyncio.create_task(self._acquire(image))
        try:
            yield task
        finally:
            task.cancel()
            await wait_until_done(task)
            if not task.cancelled() and not task.exception():
                self.embeddings.release(task.result().lease)

    async def _acquire(self, image: SourceImage) -> HeldEmbedding:
        encoder, watch = image.encoder, Stopwatch()
        lease = await self.embeddings.acquire(encoder.key, lambda lease: self.vision.encode(encoder, lease))
        return HeldEmbedding(lease, watch.seconds)

    async def _pixels(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run pure work on pixels off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(
            self.pixel_executor, partial(work, *args, **kwargs)
        )
