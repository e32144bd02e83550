"""The gRPC server: the service, health and reflection on one address.

Concurrency: one event loop runs gRPC, the service and the orchestrator. gRPC makes a task of every call, and
cancels it when its deadline passes, its client gives up, or a drain runs out of time. What is let in at once is
limited in the service (``serving.admission``); pixels and engines work in threads of their own. Closing goes in
this order: health says NOT_SERVING, new calls are refused, those in flight finish or are cancelled.

Knows transports and their options. Does not know what a call does, or who built the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import (
    SegmentationServiceServicer,
    add_SegmentationServiceServicer_to_server,
)
from serving.boundary import Boundary

SERVICE = pb.DESCRIPTOR.services_by_name["SegmentationService"].full_name

_OPTIONS = [
    # Chunks hold 1 MiB; the service says so itself to who sends a little more.
    ("grpc.max_receive_message_length", 4 << 20),
    # Masks are bounded by the image they belong to.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 1024),
    # Without this a second server would share the port in silence.
    ("grpc.so_reuseport", 0),
    # Ping silent clients, so that those that vanished give their session back; let clients ping as often.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 15_000),
]

_STATUS_SECONDS = 2.0
"""For the last answers to be sent, once nothing works any more."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM. With ``client_ca`` every client must present a certificate that descends from it."""

    certificate: bytes
    private_key: bytes
    client_ca: bytes | None = None

    def credentials(self) -> grpc.ServerCredentials:
        pair = (self.private_key, self.certificate)
        return grpc.ssl_server_credentials(
            [pair], root_certificates=self.client_ca, require_client_auth=self.client_ca is not None
        )


class Server:
    """One service on one address; health says NOT_SERVING until ``ready``."""

    def __init__(self, service: SegmentationServiceServicer, listen: str, tls: ServerTls | None = None) -> None:
        """``listen`` is ``host:port``; port 0 takes a free one, which ``address`` then names."""
        self._listen, self._tls = listen, tls
        self._boundary = Boundary(pb.DESCRIPTOR.package)
        self._server = grpc.aio.server(interceptors=[self._boundary], options=_OPTIONS)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # unknown to grpc-stubs
        self._port = 0
        add_SegmentationServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)

    @property
    def address(self) -> str:
        """Where to connect to, as ``host:port``."""
        return f"{self._listen.rpartition(':')[0]}:{self._port}"

    async def start(self) -> None:
        """Listen and answer. Raises RuntimeError when the address cannot be had."""
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._tls is None:
            self._port = self._server.add_insecure_port(self._listen)
        else:
            self._port = self._server.add_secure_port(self._listen, self._tls.credentials())
        await self._server.start()

    async def ready(self) -> None:
        """Say SERVING: the engines are warm."""
        await self._report(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, seconds: float) -> None:
        """Stop: refuse new calls at once, and give those in flight ``seconds`` to finish."""
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(seconds))
        # A stop alone waits for health watchers too, and those never leave by themselves.
        idle = asyncio.create_task(self._boundary.idle())
        await asyncio.wait([stopping, idle], return_when=asyncio.FIRST_COMPLETED)
        await self._server.stop(_STATUS_SECONDS)
        await stopping
        idle.cancel()

    async def _report(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for name in ("", SERVICE):
            await self._health.set(name, status)


@asynccontextmanager
async def serving(
    service: SegmentationServiceServicer,
    listen: str = "127.0.0.1:0",
    *,
    tls: ServerTls | None = None,
    drain_seconds: float = 5.0,
) -> AsyncIterator[Server]:
    """A server that is ready for as long as the block runs, by default on a free port of this machine.

    For tests of clients too: give it any ``SegmentationServiceServicer``.
    """
    server = Server(service, listen, tls)
    await server.start()
    try:
        await server.ready()
        yield server
    finally:
        await server.drain(drain_seconds)
