"""Where gRPC channels are made: every client of this project, and the server's own, makes them here.

Knows what holds for each of them: the host's proxy is not used unless that is asked for, since gRPC would send
even loopback through ``http_proxy``. Does not know what a channel is for.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc

Options = Sequence[tuple[str, int]]

DIRECT: Options = (("grpc.enable_http_proxy", 0),)
"""For libraries that make a channel of their own."""


def blocking(
    address: str, credentials: grpc.ChannelCredentials | None, options: Options = (), *, http_proxy: bool = False
) -> grpc.Channel:
    """A channel for threads; ``http_proxy`` uses the proxy that the environment names. Without credentials:
    plain.
    """
    settings = _settings(options, http_proxy=http_proxy)
    if credentials is None:
        return grpc.insecure_channel(address, settings)
    return grpc.secure_channel(address, credentials, settings)


def asynchronous(
    address: str, credentials: grpc.ChannelCredentials | None, options: Options = (), *, http_proxy: bool = False
) -> grpc.aio.Channel:
    """The same for the running event loop."""
    settings = _settings(options, http_proxy=http_proxy)
    if credentials is None:
        return grpc.aio.insecure_channel(address, settings)
    return grpc.aio.secure_channel(address, credentials, settings)


def _settings(options: Options, *, http_proxy: bool) -> list[tuple[str, int]]:
    return [*options, *(() if http_proxy else DIRECT)]
