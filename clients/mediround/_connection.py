"""What both clients hold of a connection: how the channel is tuned, and which images the server was sent.

Knows channel options and content keys. Does not know calls.
"""

from __future__ import annotations

from threading import Lock

from mediround.image import Upload

MAX_MESSAGE_BYTES = 64 << 20
"""Of a response: the most intricate mask of the largest image stays below it."""

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A round may take minutes on a busy server; pings tell a slow server from a dead one.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]

_REMEMBERED = 4096


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
