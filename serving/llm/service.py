"""The internal contract's methods: messages in, one call of the engine, messages out.

Knows the limit on prompts, the pictures held, and what becomes of calls when the engine dies. Does not know
transports (``serving.llm.server``), statuses (``serving.rpc.interceptor``) or how a prompt is answered.
"""

# ruff: noqa: N802, ARG002  # gRPC spells its methods so, and gives each a request and a context

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import grpc

from serving.admission.permits import Permits
from serving.bundle import Bundle
from serving.errors import PreconditionFailed, Shed, Unavailable
from serving.llm.image_cache import ImageCache
from serving.llm.messages import BEGUN, PicturesMissing, PromptReader, completion_message, runtime_message
from serving.llm.v1 import language_pb2 as pb
from serving.llm.v1.language_pb2_grpc import LanguageServiceServicer
from serving.ports import Completion, LanguageEngine, Prompt
from serving.runtime.tasks import wait_until_done
from serving.stats import CacheStats

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs alone

_RESTART_SECONDS = 5.0
"""When to ask again of an engine that died: a supervisor starts another."""


class LanguageService(LanguageServiceServicer):
    """Serves one engine."""

    def __init__(
        self, engine: LanguageEngine, bundle: Bundle, max_calls: int, max_references: int, picture_bytes: int
    ) -> None:
        """``max_calls`` are admitted at once: those that the engine works on, and its queue."""
        self._engine = engine
        self._bundle = bundle
        self._reader = PromptReader(bundle.manifest, max_references, ImageCache(picture_bytes))
        self._admission = Permits(max_calls, "prompts", Shed.ENGINE)
        self._died = asyncio.Event()

    @property
    def max_message_bytes(self) -> int:
        return self._reader.max_message_bytes

    @property
    def in_flight(self) -> int:
        """Prompts that are admitted now."""
        return self._admission.in_use

    @property
    def alive(self) -> bool:
        """Whether the engine is alive: true until ``fail``."""
        return not self._died.is_set()

    @property
    def picture_stats(self) -> CacheStats:
        return self._reader.pictures.stats

    def fail(self) -> None:
        """The engine is dead: calls in flight, and all later ones, are to be repeated elsewhere."""
        self._died.set()

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> pb.CompleteResponse:
        with self._admission.permit():
            self._check_alive()
            self._check_bundle(request.bundle_digest)
            try:
                prompt = self._reader.prompt(request)
            except PicturesMissing as missing:
                digests = [bytes.fromhex(digest) for digest in sorted(missing.digests)]
                return pb.CompleteResponse(missing=pb.MissingPictures(sha256=digests))
            await context.send_initial_metadata(((BEGUN, "1"),))
            return pb.CompleteResponse(completion=completion_message(await self._completed(prompt)))

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        manifest = self._bundle.manifest
        return pb.DescribeResponse(
            bundle_digest=self._bundle.digest,
            model_name=manifest.name,
            model_version=manifest.version,
            engine=self._engine.description,
            max_references=self._reader.max_references,
            runtime=runtime_message(self._engine.runtimes[0]),
        )

    async def _completed(self, prompt: Prompt) -> Completion:
        """The engine's answer, unless it dies first: a dead engine may never answer."""
        answering = asyncio.ensure_future(self._engine.complete(prompt))
        death = asyncio.create_task(self._died.wait())
        try:
            await asyncio.wait([answering, death], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            answering.cancel()
            await wait_until_done(answering)
            raise
        finally:
            death.cancel()
        if not answering.done():
            answering.add_done_callback(_seen)
            answering.cancel()
            self._check_alive()
        return await answering

    def _check_bundle(self, expected: str) -> None:
        ours = self._bundle.digest
        if expected != ours:
            raise PreconditionFailed(f"this server serves bundle {ours[:12]}, not {expected[:12]}")

    def _check_alive(self) -> None:
        if self._died.is_set():
            raise Unavailable("the language engine has died", _RESTART_SECONDS)


def _seen(future: asyncio.Future[Completion]) -> None:
    """What a dead engine's calls end with is of no interest any more."""
    if not future.cancelled():
        future.exception()
