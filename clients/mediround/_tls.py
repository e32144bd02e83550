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
    """TLS; with ``certificate`` and ``key``, mutual TLS."""

    ca: Pem | None = None
    """Certificates that the server's must descend from; None: those of the system."""
    certificate: Pem | None = None
    """This client's certificate chain."""
    key: Pem | None = None
    """This client's private key."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError when a file cannot be read."""
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def _read(pem: Pem | None) -> bytes | None:
    match pem:
        case None | bytes():
            return pem
        case path:
            return Path(path).read_bytes()
