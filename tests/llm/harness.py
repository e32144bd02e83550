"""The real language server in this process, round any engine: what a test of it plays on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from serving.bundle import Bundle
from serving.llm.server import LanguageServer
from serving.llm.service import Context, LanguageService
from serving.llm.v1 import language_pb2 as pb
from serving.ports import LanguageEngine
from serving.rpc.server import ServerTls
from tests.unit.serving.manifests import manifest as made_up

BUNDLE = Bundle(Path("made-up"), made_up(), "d" * 64)


class RecordingService(LanguageService):
    """Keeps the requests that came."""

    def __init__(
        self,
        engine: LanguageEngine,
        bundle: Bundle = BUNDLE,
        max_calls: int = 8,
        max_references: int = 8,
        picture_bytes: int = 1 << 24,
    ) -> None:
        super().__init__(engine, bundle, max_calls, max_references, picture_bytes)
        self.requests: list[pb.CompleteRequest] = []

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> pb.CompleteResponse:  # noqa: N802
        self.requests.append(request)
        return await super().Complete(request, context)


@asynccontextmanager
async def serving(
    service: LanguageService,
    listen: str = "127.0.0.1:0",
    *,
    tls: ServerTls | None = None,
    drain_seconds: float = 0.2,
) -> AsyncIterator[LanguageServer]:
    """A language server that is ready for as long as the block runs."""
    server = LanguageServer(service, listen, tls)
    async with server.running(drain_seconds):
        await server.ready()
        yield server


@asynccontextmanager
async def language_server(engine: LanguageEngine, bundle: Bundle = BUNDLE) -> AsyncIterator[LanguageServer]:
    async with serving(RecordingService(engine, bundle)) as server:
        yield server
