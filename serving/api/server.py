"""The gRPC server of the public contract.

Concurrency: one event loop runs gRPC, the service and the orchestrator. gRPC makes a task of every call, and
cancels it when its deadline passes, its client gives up, or a drain runs out of time. The service limits calls at
once (``serving.admission.permits``); pixels and engines work in threads of their own.

Knows which service is served on which transport (``serving.rpc.server``). Does not know what a call does, or how
the service is built.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import (
    SegmentationServiceServicer,
    add_SegmentationServiceServicer_to_server,
)
from serving.observer import Observer
from serving.rpc.server import GrpcServer, ServerTls

CONTRACT = pb.DESCRIPTOR.services_by_name["SegmentationService"]
SERVICE = CONTRACT.full_name
LANGUAGE = "language"
"""Health of the language half alone: a server whose language servers are gone still holds its sessions."""
VISION = "vision"
"""Health of the vision half alone."""

_MAX_MESSAGE_BYTES = (16 << 20) + (64 << 10)
"""Chunks are at most 1 MiB, and questions shorter. Up to 16 MiB of either get INVALID_ARGUMENT with the field that
must change; beyond, the transport refuses.
"""


class Server(GrpcServer):
    """Serves the public contract."""

    def __init__(
        self,
        service: SegmentationServiceServicer,
        listen: str,
        tls: ServerTls | None = None,
        observer: Observer | None = None,
    ) -> None:
        """``observer`` hears of every call."""
        add = partial(add_SegmentationServiceServicer_to_server, service)
        super().__init__(CONTRACT, add, listen, tls, _MAX_MESSAGE_BYTES, observer=observer)


@asynccontextmanager
async def serving(
    service: SegmentationServiceServicer,
    listen: str = "127.0.0.1:0",
    *,
    tls: ServerTls | None = None,
    drain_seconds: float = 5.0,
    observer: Observer | None = None,
) -> AsyncIterator[Server]:
    """A server that is ready for as long as the block runs, by default on a free port of this machine.

    For tests of clients too: give it any ``SegmentationServiceServicer``.
    """
    server = Server(service, listen, tls, observer)
    async with server.running(drain_seconds):
        await server.ready()
        yield server
