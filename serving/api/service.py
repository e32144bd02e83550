"""The contract's methods: messages in, one call of the orchestrator, messages out.

Knows the limits on calls at once, and the caller of each. Does not know transports (``serving.api.server``),
statuses (``serving.rpc.interceptor``) or how a round is answered (``serving.orchestrator``).
"""

# ruff: noqa: N802, ARG002  # gRPC spells its methods so, and gives each a request and a context

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, aclosing, nullcontext
from functools import partial
from typing import Any, TypeAlias

import grpc

from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceServicer
from serving import request_context
from serving.admission.permits import ByteBudget, Permits
from serving.admission.turns import Turns
from serving.api import responses
from serving.api.description import ServerDescription
from serving.api.identity import caller_of
from serving.api.image_cache import ImageCache, UploadKey
from serving.api.images import rgb_of_file, rgb_of_pixels
from serving.api.request_log import RequestLog, log_request
from serving.api.requests import RequestReader, paths_in_dialogue, paths_in_round
from serving.api.upload import ReceivedImage, receive
from serving.domain import U8, RoundResult
from serving.errors import NotFound, Shed
from serving.observer import Observer
from serving.orchestrator import Orchestrator
from serving.runtime.stopwatch import Stopwatch
from serving.runtime.tasks import ahead, run_in_executor

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs alone


SEND_IMAGE = (("x-send-image", "1"),)
"""Initial metadata: the header is taken, and the image's bytes may come."""


_MAX_OPENINGS_WAITING = 512
"""Their bytes have a bound of their own."""


class SegmentationService(SegmentationServiceServicer):
    """Serves one orchestrator. Handlers raise ``serving.errors`` and nothing else on purpose."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        description: ServerDescription,
        uploads: ImageCache,
        executor: Executor,
        observer: Observer,
    ) -> None:
        """``executor`` encodes masks; ``observer`` hears how requests for rounds end."""
        limits = description.limits
        self._orchestrator = orchestrator
        self._description = description
        self._requests = RequestReader(description)
        self._uploads = uploads
        self._executor = executor
        self._observer = observer
        self._rounds = Permits(limits.max_concurrent_rounds, "requests for rounds", Shed.REQUESTS)
        self._openings = Turns(limits.max_concurrent_uploads, _MAX_OPENINGS_WAITING, "images", Shed.UPLOADS)
        self._upload_bytes = ByteBudget(
            limits.max_concurrent_uploads * limits.max_image_bytes, "images that are being sent", Shed.UPLOADS
        )

    async def OpenSession(
        self, request_iterator: AsyncIterator[pb.OpenSessionRequest], context: Context
    ) -> pb.OpenSessionResponse:
        caller = caller_of(context.auth_context())
        accepted = partial(context.send_initial_metadata, SEND_IMAGE)
        with self._upload_bytes.share() as take:
            received = await receive(request_iterator, self._description.limits, accepted, take)
            priority = self._requests.priority(received.priority, "header.priority")
            # A caller that still sends, or asks for an image that is held, takes no turn from work.
            async with self._openings.turn(priority) if received.payload else nullcontext():
                with Stopwatch() as decoding:
                    digest, rgb = await self._image(caller, received)
                with Stopwatch() as preprocessing:
                    # An image that is held does not wait for those that are decoded.
                    held = None if received.payload else self._orchestrator.pixel_executor
                    session = await self._orchestrator.open(caller, rgb, held)
            pixels = decoding.seconds if received.payload else None
            self._observer.opened(pixels, preprocessing.seconds)
        return responses.opened(
            session, digest, self._description.model_digest, upload_skipped=not received.payload
        )

    async def AskRound(self, request: pb.AskRoundRequest, context: Context) -> pb.AskRoundResponse:
        with self._log(context, "AskRound", 1) as log, paths_in_round():
            question, correction = self._requests.round(request)
            log.priority = self._requests.priority(request.priority)
            caller = caller_of(context.auth_context())
            with self._rounds.permit():
                result = await self._orchestrator.ask(
                    request.session_id, caller, question, correction, log.priority
                )
                encoded = await self._response(result, request.mask_encoding)
            log.answer(result)
            return pb.AskRoundResponse(result=encoded)

    async def SegmentDialogue(
        self, request: pb.SegmentDialogueRequest, context: Context
    ) -> AsyncGenerator[pb.SegmentDialogueResponse]:
        with self._log(context, "SegmentDialogue", len(request.questions)) as log, paths_in_dialogue():
            questions, correction = self._requests.dialogue(request)
            log.priority = self._requests.priority(request.priority)
            caller = caller_of(context.auth_context())
            results = self._orchestrator.segment(request.session_id, caller, questions, correction, log.priority)
            # A caller that reads slowly holds neither a permit nor the session: at most max_rounds results wait.
            async with aclosing(ahead(self._permitted(results))) as ready:
                async for result in ready:
                    encoded = await self._response(result, request.mask_encoding)
                    log.answer(result)
                    yield pb.SegmentDialogueResponse(result=encoded)

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:
        await self._orchestrator.close(request.session_id, caller_of(context.auth_context()))
        return pb.CloseSessionResponse()

    async def DescribeServer(
        self,
        request: pb.DescribeServerRequest,
        context: Context,
    ) -> pb.DescribeServerResponse:
        engines = self._orchestrator
        return responses.description(self._description, engines.language.description, engines.vision.description)

    def _log(self, context: Context, method: str, rounds: int) -> AbstractContextManager[RequestLog]:
        return log_request(self._observer, request_context.request_id(), method, rounds)

    async def _permitted(self, results: AsyncGenerator[RoundResult]) -> AsyncGenerator[RoundResult]:
        with self._rounds.permit():
            async with aclosing(results):
                async for result in results:
                    yield result

    async def _image(self, caller: str, received: ReceivedImage) -> tuple[bytes, U8]:
        """SHA-256 of what was sent, and its pixels. Raises NotFound for bytes that are neither sent nor held."""
        if not received.payload:
            cached = self._uploads.get(UploadKey(caller, received.promised, received.shape))
            if cached is None:
                raise NotFound("no image of this content_sha256 is held: its bytes must be sent")
            return received.promised, cached
        digest, rgb = await run_in_executor(self._orchestrator.opening_executor, partial(self._decoded, received))
        self._uploads.put(UploadKey(caller, digest, received.shape), rgb)
        return digest, rgb

    def _decoded(self, received: ReceivedImage) -> tuple[bytes, U8]:
        digest = received.digest()
        if received.shape is not None:
            return digest, rgb_of_pixels(received.payload, received.shape)
        return digest, rgb_of_file(received.payload, self._description.limits)

    async def _response(self, result: RoundResult, encoding: pb.MaskEncoding.ValueType) -> pb.RoundResult:
        loop = asyncio.get_running_loop()
        digest = self._description.model_digest
        return await loop.run_in_executor(self._executor, responses.round_result, result, encoding, digest)
