"""Certificates of a connection.

Knows which files or bytes make TLS, and mutual TLS, of a channel. Does not know addresses or calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import grpc

Pem = str | PathLike[str] | bytes
"""PEM: a path, or the bytes themselves."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS; with ``certificate`` and ``key``, mutual TLS. Each is PEM: a path, or the bytes themselves.

    Attributes:
        ca: certificates that the server's must descend from; None: those of the system.
        certificate: this client's certificate chain.
        key: this client's private key.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError when a file cannot be read."""
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def _read(pem: Pem | None) -> bytes | None:
    match pem:
        case None | bytes():
            return pem
        case path:
            return Path(path).read_bytes()
