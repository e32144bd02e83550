"""What both clients hold of a connection: the channel's address and tuning, the images that were sent, open
sessions.

Knows channel options, content keys and ids. Does not make calls.
"""

from __future__ import annotations

from threading import Lock
from typing import NoReturn

import grpc

from mediround import _address
from mediround._calls import Call, Metadata
from mediround._tls import Tls
from mediround.errors import (
    Cancelled,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    MediRoundError,
    Unavailable,
)
from mediround.image import Upload
from mediround.v1 import segmentation_pb2 as pb

MAX_MESSAGE_BYTES = 64 << 20
"""Of a response: the most intricate mask of the largest image stays below it."""

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A round may take minutes on a busy server; pings tell a slow server from a dead one.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A server that comes back is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
SEND_IMAGE = "x-send-image"
"""Initial metadata by which the server says that it takes the header. Without it, the call is refused."""
VERDICT_SECONDS = 5.0
"""That a large image is held back while the server judges its header; a proxy may hold back the verdict."""
CLOSING_SECONDS = 5.0
"""That a server may take to close what a client leaves open when it is closed."""
HEALTH = "/grpc.health.v1.Health/Check"
"""The standard service's method. The empty request asks for the server as a whole."""
_SERVING = b"\x08\x01"
"""A HealthCheckResponse whose one field, ``status``, is SERVING."""

_REMEMBERED = 4096

_CANCELLED_THERE = ("CANCELLED", "RST_STREAM")
"""Words of gRPC's own."""
NOT_CLOSED = "a session was collected before it was closed: use it in a with, or close it"


class SentImages:
    """Images that this client has sent, so that the server may still hold them. Safe across threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._keys: dict[bytes, None] = {}

    def __contains__(self, upload: Upload) -> bool:
        return upload.key in self._keys

    def add(self, upload: Upload) -> None:
        with self._lock:
            self._keys[upload.key] = None
            if len(self._keys) > _REMEMBERED:
                del self._keys[next(iter(self._keys))]

    def discard(self, upload: Upload) -> None:
        with self._lock:
            self._keys.pop(upload.key, None)


class OpenSessions:
    """Ids of sessions that a client has opened and not closed. Safe across threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ids: set[str] = set()

    def add(self, session_id: str) -> None:
        with self._lock:
            self._ids.add(session_id)

    def discard(self, session_id: str) -> None:
        with self._lock:
            self._ids.discard(session_id)

    def take(self) -> set[str]:
        """All of them; they are no longer held."""
        with self._lock:
            ids, self._ids = self._ids, set()
            return ids


def closing_requests(sessions: OpenSessions) -> list[tuple[pb.CloseSessionRequest, Metadata]]:
    """What closes the sessions that a client leaves open."""
    return [
        (pb.CloseSessionRequest(session_id=each), Call(CLOSING_SECONDS, 0, session_id=each).metadata)
        for each in sessions.take()
    ]


def target(address: object, tls: object) -> tuple[str, grpc.ChannelCredentials | None]:
    """Where a channel leads, and its credentials; None for plain text. Raises InvalidArgument."""
    if tls is not None and not isinstance(tls, Tls):
        raise InvalidArgument(
            "tls: must be a Tls, or None for plain text", (FieldViolation("tls", "must be a Tls"),)
        )
    return _address.checked(address), tls.credentials() if tls else None


def check_health(answer: bytes) -> None:
    """Raises Unavailable when a health check's answer, as it came, is not SERVING."""
    if answer != _SERVING:
        raise Unavailable(
            "the server is there and does not serve: it is starting, stopping, or half of it is lost", 1.0
        )


def closed() -> FailedPrecondition:
    return FailedPrecondition("the client is closed: make another one")


def cancelled(call: Call) -> Cancelled:
    error = Cancelled("the client was closed during the call")
    error.request_id = call.request_id
    return error


def stopped(error: MediRoundError) -> MediRoundError:
    """``error``, or Unavailable where a server that stops has cancelled the call: this side has not."""
    if not isinstance(error, Cancelled) or not any(words in str(error) for words in _CANCELLED_THERE):
        return error
    lost = Unavailable("the server stopped during the call")
    lost.request_id = error.request_id
    return lost


def not_copied(held: object) -> NoReturn:
    """Raises TypeError, as Python does for sockets and files."""
    words = "cannot be copied or pickled: make a client in each process, and take up a session there by its id"
    raise TypeError(f"{type(held).__name__} {words}")
