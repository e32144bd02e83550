"""One dialogue, wave by wave: the file to read first.

A live round is a dialogue of one question; a dialogue known in advance is read in waves, each one language
pass for every ``[SEG]`` that is reachable and one decode of their masks on the shared embedding. Knows the
order of work. Does not know gRPC, tokens' text, how images are resized, how engines run, or where
embeddings lie.

Concurrency: everything here runs on one event loop. Sessions interleave freely; one session's requests wait
for each other in its store, and the one whose turn it is passes the gate before engines are asked. Engines
bring their own threads; rounds' pixels are worked on in ``pixel_executor`` (one mask that is soon drawn, here),
those of new sessions in another (``serving.sessions.keeper``): rounds do not wait for large images. An image is
brought to the encoder's size, and encoded, once a session's opening has decoded it, or beside the first language
pass that finds no embedding of it. A cancelled request stops its engines' work, gives its lease and its admission
back, and leaves its session as the last finished wave left it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from serving import request_context, wave
from serving.domain import (
    F32,
    U8,
    CacheUse,
    Correction,
    Mask,
    Priority,
    Progress,
    Question,
    Runtimes,
    SegFeature,
    Segmentation,
    Timings,
    WorkStage,
)
from serving.errors import InvalidInput, InvalidQuestion
from serving.geometry import Geometry
from serving.history import changes
from serving.history.record import Session
from serving.history.rounds import RoundResult
from serving.observer import Observer, WaveTerms
from serving.ports import Completion, EmbeddingStore, Gate, LanguageEngine, VisionEngine
from serving.prompt import PromptTemplate
from serving.runtime.stopwatch import Stopwatch
from serving.runtime.tasks import run_in_executor
from serving.sessions.crops import Crops
from serving.sessions.embedding import Encoding, HeldEmbedding, embedding_of
from serving.sessions.encode_on_open import EncodeOnOpen
from serving.sessions.keeper import NewSession, SessionKeeper
from serving.sessions.plan import DialoguePlan, DialogueRequest, check_live, plan
from serving.wave import WaveItem


@dataclass(slots=True)
class _Work:
    """A request at work: what its waves have in common, and the session as the last one left it."""

    request: DialogueRequest
    session: Session
    waves: int
    embedding: asyncio.Task[HeldEmbedding] | None
    """None: no round needs one."""
    joined: float = 0.0
    """Seconds that it waited for others' work on the embedding, before it was admitted."""
    number: int = 0
    """Of the wave."""

    def tell(self, stage: WorkStage) -> None:
        self.request.tell(Progress(stage, wave=self.number, waves=self.waves))


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """Answers rounds. Every collaborator is given; see ``serving.__main__`` for which."""

    keeper: SessionKeeper
    language: LanguageEngine
    vision: VisionEngine
    embeddings: EmbeddingStore
    gate: Gate
    observer: Observer
    form: PromptTemplate
    geometry: Geometry
    encoding: Encoding
    encode_on_open: EncodeOnOpen
    crops: Crops
    pixel_executor: Executor
    max_rounds: int
    engine_digest: Callable[[Runtimes], str]
    """Names the record of what computes a round."""

    async def open(self, caller: str, rgb: U8) -> Session:
        """Open a session on an RGB uint8 (H, W, 3) image. Raises Exhausted when no more sessions are held."""
        return await self.keeper.open(NewSession(caller), await self.keeper.prepare(rgb))

    async def close(self, session_id: str, caller: str) -> None:
        """Close a session. Raises NotFound when the caller has none of this id."""
        await self.keeper.close(session_id, caller)

    async def ask(
        self,
        session_id: str,
        caller: str,
        question: Question,
        correction: Correction,
        priority: Priority = Priority.INTERACTIVE,
    ) -> RoundResult:
        """Answer one live round; see ``answer``, of which this is the short form."""
        return await self.answer(DialogueRequest(session_id, caller, [question], correction, priority))

    def segment(
        self,
        session_id: str,
        caller: str,
        questions: Sequence[Question],
        correction: Correction,
        priority: Priority = Priority.INTERACTIVE,
    ) -> AsyncGenerator[RoundResult]:
        """Answer questions known in advance; see ``answers``."""
        return self.answers(DialogueRequest(session_id, caller, questions, correction, priority))

    async def answer(self, request: DialogueRequest) -> RoundResult:
        """Answer a request for one live round; see ``answers`` and ``check_live``."""
        check_live(request)
        async with aclosing(self.answers(request)) as results:
            # To its end: to the gate, work that is left early is not done.
            [result] = [each async for each in results]
            return result

    async def answers(self, request: DialogueRequest) -> AsyncGenerator[RoundResult]:
        """Answer questions known in advance; results come as soon as their wave is decoded.

        Raises:
            InvalidQuestion: a reference to a round that does not exist, too many rounds or tokens. Known before
                the first wave, but for the length of a dialogue with free answers.
            PreconditionFailed: a reference to a round without a mask, or to what is no longer so; the request's id
                stands for another request.
            MovedOn: part of this request was answered before, and the session has changed since.
            Exhausted: the session store is full, or too much work waits.

        Whatever is raised, results sent before stay valid and stay part of the session. A request that comes again
        is answered as before, and goes on where it ended.
        """
        arrival = Stopwatch()
        request.tell(Progress(WorkStage.QUEUED))
        holding = self.keeper.exclusive(request.session_id, request.caller, request.key)
        async with holding as held, AsyncExitStack() as stack:
            before = changes.told_again(held.record, held.before)
            for result in before:
                yield result
            if len(before) == len(request.questions):
                return
            changes.check_unmoved(held.record, before)
            session = held.session
            planned = plan(session.record, request, len(before), self.form, self.max_rounds)
            work = await self._begin(request, session, planned, stack)
            stack.enter_context(self.crops.working())
            before_it = arrival.seconds
            timings = Timings(queue=before_it - work.joined, encode=work.joined, total=before_it)
            for number, items in enumerate(planned.waves, planned.first):
                work.number = number
                with request_context.prioritised(request.priority):
                    results = await self._step(work, items, timings)
                self._observe(request, items, results)
                for result in results:
                    yield result
                timings = Timings()
            if request.of_person:
                self.crops.answered(work.session, results[-1])

    async def _begin(
        self, request: DialogueRequest, session: Session, planned: DialoguePlan, stack: AsyncExitStack
    ) -> _Work:
        """Admitted, with the embedding on its way, until the stack is left; seeds alone need neither."""
        if not planned.passes:
            return _Work(request, session, planned.last, None)
        self.encode_on_open.asked(session)
        key, watch = session.image.embedding_key, Stopwatch()
        # Before the gate: whoever waits for others' work there holds a place that a round on a known image needs.
        joined = watch.seconds if await self.embeddings.settled(key) else 0.0
        work = planned.work(known=self.embeddings.holds(key))
        admitted = self.gate.admitted(work, request.caller, request.priority, request.tell)
        place = await stack.enter_async_context(admitted)
        self.encode_on_open.admitted(session)
        fill = partial(self.encoding, session.image)
        coming = embedding_of(key, self.embeddings, fill, request.priority, place)
        return _Work(request, session, planned.last, await stack.enter_async_context(coming), joined)

    def _observe(
        self, request: DialogueRequest, items: Sequence[WaveItem], results: Sequence[RoundResult]
    ) -> None:
        """Tell of the rounds that the model was asked."""
        of_model = [result for result in results if not result.round.seeded]
        if of_model:
            correctable = wave.correctable(items, results)
            self.observer.wave(of_model, WaveTerms(request.correction.threshold, request.priority, correctable))

    async def _step(self, work: _Work, planned: Sequence[WaveItem], timings: Timings) -> list[RoundResult]:
        """One wave, prepared, read, decoded and remembered: one language pass and one batch of masks."""
        embedding = work.embedding
        with timings.stage("total"):
            with timings.stage("prepare"):
                work.tell(WorkStage.PREPARE)
                items = await self._with_references(work.session, planned)
            held_before = work.number > 0 and embedding is not None and embedding.done()
            with timings.stage("language"):
                completion = await self._read(work, items)
            features = wave.features(items, completion)
            held = await self._held(work) if any(features) else None
            segmentations, near_zero = await self._decode(work, items, features, held, timings)
            encoder = (held and held.lease.encoder) or self.vision.encoder
            runtimes = Runtimes(completion.runtime, encoder, self.vision.decoder)
            rounds = wave.rounds(items, completion, segmentations, self.form, self.engine_digest(runtimes))
            hit = held is not None and (held_before or held.lease.hit)
            timings.encode += 0.0 if hit or held is None else held.seconds
            cache = CacheUse(hit, completion.cached_tokens, completion.prompt_tokens, work.number)
            answered = zip(items, rounds, near_zero, strict=True)
            results = [RoundResult(item.index, each, timings, cache, near) for item, each, near in answered]
            record = changes.with_rounds(work.session.record, rounds, results, work.request.key)
            await self.keeper.store.commit(record)
        work.session = replace(work.session, record=record)
        return results

    async def _with_references(self, session: Session, planned: Sequence[WaveItem]) -> list[WaveItem]:
        """Items with what the language half is shown of the masks that they are about."""
        items: list[WaveItem] = []
        for item in planned:
            referred = wave.referred_mask(session.record, items, item.question)
            if referred is None:
                items.append(item)
                continue
            shown = wave.shown_before(session.record, items, referred)
            if shown is None:
                shown = await self.crops.of(session, referred)
            items.append(replace(item, referred=referred, reference=shown))
        return items

    async def _read(self, work: _Work, items: Sequence[WaveItem]) -> Completion:
        """The language pass of a wave, if it takes one. A prompt that the engine refuses is one that these
        questions make together.
        """
        if not wave.model_rounds(items):
            return wave.NO_PASS
        work.tell(WorkStage.LANGUAGE)
        try:
            return await self.language.complete(wave.prompt(work.session, items, self.form))
        except InvalidQuestion:
            raise
        except InvalidInput as error:
            raise InvalidQuestion(None, "", error.description) from error

    async def _held(self, work: _Work) -> HeldEmbedding | None:
        if work.embedding is None:
            return None
        if not work.embedding.done():
            work.tell(WorkStage.ENCODE)
        return await work.embedding

    async def _decode(
        self,
        work: _Work,
        items: Sequence[WaveItem],
        features: Sequence[SegFeature | None],
        held: HeldEmbedding | None,
        timings: Timings,
    ) -> tuple[list[Segmentation | None], list[Mask | None]]:
        """Decode the features that there are as one batch, and bring the masks to the image's size; and which of
        its pixels are next to 0, where that is asked.
        """
        if held is None:
            return [None] * len(features), [None] * len(features)
        work.tell(WorkStage.DECODE)
        limits = [item.threshold for item, feature in zip(items, features, strict=True) if feature]
        with timings.stage("decode"):
            decoded = await self.vision.decode(held.lease, wave.vectors(features), np.array(limits, np.float32))
        with timings.stage("postprocess"):
            image, margin = work.session.image, work.request.near_zero
            draw = partial(self.geometry.mask, image=image)
            at_once = len(decoded.logits) == 1 and self.geometry.mask_is_soon(decoded.logits[0], image)
            masks = [draw(decoded.logits[0])] if at_once else await self._drawn(draw, decoded.logits)
            near: list[Mask | None] = [None] * len(masks)
            if margin is not None:
                near_zero = partial(self.geometry.near_zero, image=image, margin=margin)
                near = [*await self._drawn(near_zero, decoded.logits)]
        return wave.segmentations(features, decoded, masks), wave.of_features(features, near)

    async def _drawn(self, draw: Callable[[F32], Mask], logits: F32) -> list[Mask]:
        """Logits (K, L, L) as masks, off the event loop."""
        return await run_in_executor(self.pixel_executor, lambda: list(map(draw, logits)))
