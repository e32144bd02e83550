"""The language server: the internal contract on one address, for as long as its engine lives.

Knows when to say SERVING, and when no longer. Does not know how an engine is built (``serving.llm.__main__``).
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

from serving.llm.service import LanguageService
from serving.llm.v1 import language_pb2 as pb
from serving.llm.v1.language_pb2_grpc import add_LanguageServiceServicer_to_server
from serving.rpc.server import GrpcServer, ServerTls

CONTRACT = pb.DESCRIPTOR.services_by_name["LanguageService"]


class LanguageServer(GrpcServer):
    """Serves one engine."""

    def __init__(self, service: LanguageService, listen: str, tls: ServerTls | None = None) -> None:
        add = partial(add_LanguageServiceServicer_to_server, service)
        super().__init__(CONTRACT, add, listen, tls, service.max_message_bytes)
        self._service = service

    async def outlive(self, death: Awaitable[None]) -> None:
        """Return after the engine's ``death``: health then says so, and no call waits for it any more."""
        await death
        await self.not_ready()
        self._service.fail()
