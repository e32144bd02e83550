"""Keys that cannot collide by accident: SHA-256 over fields that are each typed and length-prefixed.

Knows texts, bytes and whole numbers. Does not know what a key is for: its kind, the first field, says so.
"""

from __future__ import annotations

import hashlib

_LENGTH_BYTES = 8


def digest(kind: str, *fields: str | bytes | int) -> bytes:
    """32 bytes. Moving a byte from one field to the next, or another kind, gives another digest."""
    hashed = hashlib.sha256()
    for value in (kind, *fields):
        name, raw = _typed(value)
        hashed.update(name + len(raw).to_bytes(_LENGTH_BYTES) + raw)
    return hashed.digest()


def _typed(value: str | bytes | int) -> tuple[bytes, bytes]:
    match value:
        case str():
            return b"s", value.encode(errors="surrogatepass")
        case bytes():
            return b"b", value
        case _:
            return b"i", str(value).encode()
