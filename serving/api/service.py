"""The contract's methods: messages in, one call of the orchestrator, messages out.

Knows the limits on calls at once, and the caller of each. Does not know transports (``serving.api.server``),
statuses (``serving.rpc.interceptor``), how a round is answered (``serving.orchestrator``), or sessions beside
their rounds (``serving.api.sessions``).
"""

# ruff: noqa: N802, ARG002  # gRPC spells its methods so, and gives each a request and a context

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial

from mediround.v1 import segmentation_pb2 as pb
from serving import request_context
from serving.admission.permits import Permits
from serving.api import responses
from serving.api.description import ServerDescription
from serving.api.given_masks import MaskReader, masks_in
from serving.api.identity import account_of, caller_of
from serving.api.image_cache import ImageCache
from serving.api.openings import Openings
from serving.api.records import EngineRecords
from serving.api.repetition import request_key
from serving.api.request_log import RequestLog, log_request
from serving.api.requests import RequestReader, paths_in_dialogue, paths_in_round
from serving.api.sessions import Context, SessionMethods
from serving.domain import Progress, Runtimes
from serving.errors import Shed
from serving.history.rounds import RoundResult
from serving.observer import Observer
from serving.orchestrator import Orchestrator
from serving.runtime.tasks import ahead
from serving.sessions.plan import DialogueRequest, check_live

SEND_IMAGE = (("x-send-image", "1"),)
"""Initial metadata: the header is taken, and the image's bytes may come."""

_MOST_UNREAD = 32
"""Messages that wait for a slow reader, beyond which progress is left out."""


class SegmentationService(SessionMethods):
    """Serves one orchestrator. Handlers raise ``serving.errors`` and nothing else on purpose."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        description: ServerDescription,
        uploads: ImageCache,
        executor: Executor,
        observer: Observer,
        *,
        records: EngineRecords,
    ) -> None:
        """``executor`` encodes and decodes masks; ``observer`` hears how requests for rounds end; ``records`` are
        those that the orchestrator's rounds name.
        """
        limits = description.limits
        super().__init__(orchestrator.keeper, limits, executor)
        self._orchestrator = orchestrator
        self._description = description
        self._records = records
        self._requests = RequestReader(description)
        self._openings = Openings(orchestrator, description, uploads, observer)
        self._observer = observer
        self._rounds = Permits(limits.max_concurrent_rounds, "requests for rounds", Shed.REQUESTS)

    async def OpenSession(
        self, request_iterator: AsyncIterator[pb.OpenSessionRequest], context: Context
    ) -> pb.OpenSessionResponse:
        caller, metadata = caller_of(context.auth_context()), context.invocation_metadata()
        accepted = partial(context.send_initial_metadata, SEND_IMAGE)
        account = account_of(caller, context.peer())
        opened = await self._openings.open(request_iterator, caller, account, metadata, accepted)
        expires_at = self._keeper.expires_at(opened.record.session_id, caller)
        return responses.opened(opened.record, expires_at, upload_skipped=opened.upload_skipped)

    async def AskRound(self, request: pb.AskRoundRequest, context: Context) -> pb.AskRoundResponse:
        with self._log("AskRound", 1) as log, paths_in_round():
            async with self._round(request, context, log) as dialogue:
                with self._rounds.permit():
                    result = await self._orchestrator.answer(dialogue)
                    encoded = await self._response(result, dialogue, request.mask_encoding)
                log.answer(result)
                return pb.AskRoundResponse(result=encoded)

    async def AskRoundWithProgress(
        self, request: pb.AskRoundWithProgressRequest, context: Context
    ) -> AsyncGenerator[pb.AskRoundWithProgressResponse]:
        # The same fields by the same numbers: it is one request, by whichever method it comes again.
        plain = pb.AskRoundRequest.FromString(request.SerializeToString(deterministic=True))
        with self._log("AskRoundWithProgress", 1) as log, paths_in_round():
            async with (
                self._round(plain, context, log) as dialogue,
                aclosing(self._events(dialogue, progress=True)) as events,
            ):
                check_live(dialogue)
                async for event in events:
                    if isinstance(event, Progress):
                        yield pb.AskRoundWithProgressResponse(progress=responses.progress(event))
                        continue
                    encoded = await self._response(event, dialogue, request.mask_encoding)
                    log.answer(event)
                    yield pb.AskRoundWithProgressResponse(result=encoded)

    async def SegmentDialogue(
        self, request: pb.SegmentDialogueRequest, context: Context
    ) -> AsyncGenerator[pb.SegmentDialogueResponse]:
        rounds = min(len(request.questions), self._limits.max_rounds)  # more are refused, and are no rounds
        with self._log("SegmentDialogue", rounds) as log, paths_in_dialogue():
            async with (
                self._dialogue(request, context, log) as dialogue,
                aclosing(self._events(dialogue, progress=request.progress)) as events,
            ):
                async for event in events:
                    if isinstance(event, Progress):
                        yield pb.SegmentDialogueResponse(progress=responses.progress(event))
                        continue
                    encoded = await self._response(event, dialogue, request.mask_encoding)
                    log.answer(event)
                    yield pb.SegmentDialogueResponse(result=encoded)

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:
        await self._orchestrator.close(request.session_id, self._caller(context, request.session_id))
        return pb.CloseSessionResponse()

    async def DescribeServer(
        self,
        request: pb.DescribeServerRequest,
        context: Context,
    ) -> pb.DescribeServerResponse:
        language, vision = self._orchestrator.language, self._orchestrator.vision
        now = [Runtimes(each, vision.encoder, vision.decoder) for each in language.runtimes]
        return responses.description(
            self._description, language.description, vision.description, [self._records.of(each) for each in now]
        )

    def _log(self, method: str, rounds: int) -> AbstractContextManager[RequestLog]:
        return log_request(self._observer, request_context.request_id(), method, rounds)

    @asynccontextmanager
    async def _round(
        self, request: pb.AskRoundRequest, context: Context, log: RequestLog
    ) -> AsyncIterator[DialogueRequest]:
        """What a request for one round asks; the masks that came with it have their memory until it ends."""
        caller, sent = self._caller(context, request.session_id), request_context.repeatable_id()

        def read(masks: MaskReader | None) -> DialogueRequest:
            question, correction = self._requests.round(request, masks)
            priority = self._requests.priority(request.priority)
            key = request_key(sent, "AskRound", caller, request.SerializeToString(deterministic=True))
            near_zero = self._requests.near_zero(request)
            return DialogueRequest(
                request.session_id, caller, [question], correction, priority, key, near_zero=near_zero
            )

        count = masks_in([request.question])
        async with self._masks(context, request.session_id, caller, count) as masks:
            dialogue = await self._read(read, masks)
            log.priority = dialogue.priority
            yield dialogue

    @asynccontextmanager
    async def _dialogue(
        self, request: pb.SegmentDialogueRequest, context: Context, log: RequestLog
    ) -> AsyncIterator[DialogueRequest]:
        """As ``_round``, of several."""
        caller, sent = self._caller(context, request.session_id), request_context.repeatable_id()

        def read(masks: MaskReader | None) -> DialogueRequest:
            questions, correction = self._requests.dialogue(request, masks)
            priority = self._requests.priority(request.priority)
            key = request_key(sent, "SegmentDialogue", caller, request.SerializeToString(deterministic=True))
            near_zero = self._requests.near_zero(request)
            return DialogueRequest(
                request.session_id, caller, questions, correction, priority, key, near_zero=near_zero
            )

        self._requests.check_dialogue(request)
        count = masks_in(request.questions)
        async with self._masks(context, request.session_id, caller, count) as masks:
            dialogue = await self._read(read, masks)
            log.priority = dialogue.priority
            yield dialogue

    async def _events(
        self, dialogue: DialogueRequest, *, progress: bool
    ) -> AsyncGenerator[RoundResult | Progress]:
        """Results, and between them where the request stands, if its caller is to be told.

        A caller that reads slowly holds neither a permit nor the session: at most max_rounds results wait, and a
        few words of progress.
        """
        beside: asyncio.Queue[list[RoundResult | Progress]] = asyncio.Queue()

        def tell(stands: Progress) -> None:
            if beside.qsize() < _MOST_UNREAD:
                beside.put_nowait([stands])

        results = self._orchestrator.answers(replace(dialogue, tell=tell) if progress else dialogue)
        async with aclosing(ahead(self._permitted(results), beside)) as events:
            async for event in events:
                yield event

    async def _permitted(self, results: AsyncGenerator[RoundResult]) -> AsyncGenerator[RoundResult]:
        with self._rounds.permit():
            async with aclosing(results):
                async for result in results:
                    yield result

    async def _response(
        self, result: RoundResult, dialogue: DialogueRequest, encoding: pb.MaskEncoding.ValueType
    ) -> pb.RoundResult:
        expires_at = self._keeper.expires_at(dialogue.session_id, dialogue.caller)
        model = self._description.model_digest
        encode = partial(responses.round_result, result, encoding, model, expires_at)
        return await asyncio.get_running_loop().run_in_executor(self._executor, encode)
