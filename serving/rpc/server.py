"""A gRPC server around one service: health and reflection, TLS, and a drain.

Closing goes in this order: health says NOT_SERVING, new calls are refused, those in flight finish or are
cancelled. Knows transports and their options. Does not know what a call does, or how the service is built.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from serving.observer import Observer
from serving.rpc.interceptor import CallInterceptor

_OPTIONS = [
    # Bounded by what was asked: masks by their image, features by the prompt.
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


class GrpcServer:
    """One service on one address; health says NOT_SERVING until ``ready``."""

    def __init__(
        self,
        contract: ServiceDescriptor,
        add: Callable[[grpc.aio.Server], None],
        listen: str,
        tls: ServerTls | None,
        max_message_bytes: int,
        *,
        observer: Observer | None = None,
    ) -> None:
        """``add`` registers the service; ``listen`` is ``host:port``, of which port 0 takes a free one.

        A request above ``max_message_bytes`` is refused before it is read.
        """
        self._listen, self._tls = listen, tls
        self._name = contract.full_name
        self._boundary = CallInterceptor(contract.file.package, observer)
        options = [*_OPTIONS, ("grpc.max_receive_message_length", max_message_bytes)]
        self._server = grpc.aio.server(interceptors=[self._boundary], options=options)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # unknown to grpc-stubs
        self._port = 0
        add(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [self._name, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server)

    @property
    def address(self) -> str:
        """Where to connect to, as ``host:port``."""
        return f"{self._listen.rpartition(':')[0]}:{self._port}"

    async def start(self) -> None:
        """Listen and answer. Raises RuntimeError when the address cannot be had."""
        await self.not_ready()
        if self._tls is None:
            self._port = self._server.add_insecure_port(self._listen)
        else:
            self._port = self._server.add_secure_port(self._listen, self._tls.credentials())
        await self._server.start()

    async def ready(self) -> None:
        """Say SERVING: the engines are warm."""
        await self._report(serving=True)

    async def not_ready(self) -> None:
        """Say NOT_SERVING; calls are answered all the same."""
        await self._report(serving=False)

    async def report(self, name: str, *, serving: bool) -> None:
        """Health of a part, asked for by its name. A drain is NOT_SERVING for every name, for good."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(name, status)

    @asynccontextmanager
    async def running(self, drain_seconds: float) -> AsyncIterator[None]:
        """Started, and drained at the end. Raises RuntimeError when the address cannot be had."""
        await self.start()
        try:
            yield
        finally:
            await self.drain(drain_seconds)

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

    async def _report(self, *, serving: bool) -> None:
        for name in ("", self._name):
            await self.report(name, serving=serving)
