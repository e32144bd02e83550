"""Certificates of a connection, read and checked when ``Tls`` is made: gRPC would abort the process, or say
nothing.

Knows which files or bytes make TLS, and mutual TLS, of a channel. Does not know addresses or calls.
"""

from __future__ import annotations

import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike, fsdecode, fspath
from pathlib import Path

import grpc

from mediround._files import BadFile, content
from mediround.errors import FieldViolation, InvalidArgument

Pem = str | PathLike[str] | bytes
"""PEM: a path, or the bytes themselves."""

_MAX_PEM_BYTES = 16 << 20
_CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")
_ENCRYPTED = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: *4 *, *ENCRYPTED", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS; with ``certificate`` and ``key``, mutual TLS. PEM files are read when it is made, and may change later.

    A certificate that has expired is taken: its server says so, or lets it pass.

    Raises:
        InvalidArgument: a file cannot be read or is no PEM, the certificate or the key is missing or does not fit
            the other, or the key is encrypted. The message names the file.

    Attributes:
        ca: certificates that the server's must descend from; None: those of the system.
        certificate: this client's certificate chain.
        key: this client's private key, not encrypted.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = None
    _read: tuple[bytes | None, bytes | None, bytes | None] = field(
        init=False, repr=False, compare=False, default=(None, None, None)
    )

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise _refused(missing, "is missing: certificate and key go together")
        read = (_pem(self.ca, "ca"), _pem(self.certificate, "certificate"), _pem(self.key, "key"))
        object.__setattr__(self, "_read", read)
        ca, certificate, key = read
        if ca is not None:
            _check_certificates(self.ca, ca, "ca")
        if certificate is not None and key is not None:
            _check_certificates(self.certificate, certificate, "certificate")
            _check_key(key, _name(self.key))
            _check_pair(self.certificate, certificate, self.key, key)

    def __repr__(self) -> str:
        parts = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        given = (f"{name}={_name(pem)!r}" for name, pem in parts.items() if pem is not None)
        return f"Tls({', '.join(given)})"

    def credentials(self) -> grpc.ChannelCredentials:
        """For a gRPC channel."""
        ca, certificate, key = self._read
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def context(self) -> ssl.SSLContext:
        """The same for a socket, but that the peer is not verified: to find out why a handshake fails."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        _, certificate, key = self._read
        if certificate is not None and key is not None:
            with _file(self.certificate, certificate) as chain, _file(self.key, key) as private:
                context.load_cert_chain(chain, private)
        return context


def _pem(pem: object, name: str) -> bytes | None:
    match pem:
        case None:
            return None
        case bytes():
            return pem
        case str() | PathLike():
            try:
                return content(Path(fsdecode(fspath(pem))), _MAX_PEM_BYTES)
            except BadFile as error:
                raise _refused(name, f"{fsdecode(fspath(pem))} {error}") from None
            except OSError as error:
                raise _refused(name, f"{fsdecode(fspath(pem))} cannot be read: {error.strerror}") from error
            except ValueError as error:  # a name that no file can have
                raise _refused(name, f"is no path: {error}") from error
        case _:
            raise _refused(name, f"is a {type(pem).__name__}; pass a path or the bytes of a PEM file")


def _name(pem: Pem | None) -> str:
    """What a message calls it: never its content."""
    return "the bytes given" if isinstance(pem, bytes) or pem is None else fsdecode(fspath(pem))


def _check_certificates(given: Pem | None, pem: bytes, part: str) -> None:
    if not _CERTIFICATE.search(pem):
        raise _refused(part, f"{_name(given)} holds no PEM certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with _file(given, pem) as path:
            context.load_verify_locations(path)
    except (ssl.SSLError, ValueError):
        raise _refused(part, f"{_name(given)} holds a PEM certificate that cannot be read") from None


def _check_key(pem: bytes, name: str) -> None:
    if _ENCRYPTED.search(pem):
        raise _refused("key", f"{name} is encrypted; decrypt it first, for example with openssl pkey")
    if not _KEY.search(pem):
        raise _refused("key", f"{name} holds no PEM private key")


def _check_pair(given_certificate: Pem | None, certificate: bytes, given_key: Pem | None, key: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with _file(given_certificate, certificate) as chain, _file(given_key, key) as private:
            context.load_cert_chain(chain, private, password="")
    except ssl.SSLError as error:
        name, other = _name(given_key), _name(given_certificate)
        if error.reason and "MISMATCH" in error.reason:
            raise _refused("key", f"{name} does not belong to the certificate of {other}") from None
        raise _refused("key", f"{name} holds a private key that cannot be read") from None


@contextmanager
def _file(given: Pem | None, content: bytes) -> Iterator[str]:
    """Where ``content`` lies: Python's ``ssl`` reads keys from files alone."""
    if given is not None and not isinstance(given, bytes):
        yield fsdecode(fspath(given))
        return
    with tempfile.TemporaryDirectory(prefix="mediround-") as folder:  # the user's own
        path = Path(folder) / "pem"
        path.write_bytes(content)
        yield str(path)


def _refused(part: str, description: str) -> InvalidArgument:
    name = f"tls.{part}"
    return InvalidArgument(f"{name}: {description}", (FieldViolation(name, description),))
