"""How names and bodies lie in the file: as digests, and encrypted where there is a key.

Knows AES-256-GCM, and that a body belongs in one place. Does not know what bodies hold, or where keys come from.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from serving.runtime.digest import digest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12
_CHECK_BYTES = 16
_KEY = re.compile(r"\s*([0-9a-fA-F]{64})\s*")


class Damaged(Exception):
    """A body is not what was put there, or was encrypted with another key."""


class Seal:
    """Names and bodies of one place."""

    def __init__(self, key: bytes | None = None) -> None:
        """``key``: 32 bytes; None: nothing is encrypted, and a name's digest can be found by who guesses the name.

        Raises:
            ValueError: the library that encrypts is not installed.
        """
        self._names = None if key is None else digest("sessions: names", key)
        self._cipher = None if key is None else _cipher(digest("sessions: bodies", key))

    def name(self, kind: str, *fields: str) -> bytes:
        """32 bytes that stand for a name of this kind: without the key, nobody can tell for which."""
        plain = digest(kind, *fields)
        return plain if self._names is None else hmac.digest(self._names, plain, "sha256")

    def closed(self, body: bytes, *place: str | bytes) -> bytes:
        """The body as it lies in ``place``: nowhere else is it taken for one."""
        where = digest("place", *place)
        if self._cipher is None:
            return _check(body, where) + body
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, body, where)

    def opened(self, closed: bytes, *place: str | bytes) -> bytes:
        """What was ``closed``. Raises Damaged."""
        where = digest("place", *place)
        if self._cipher is not None:
            return _decrypted(self._cipher, closed, where)
        body = closed[_CHECK_BYTES:]
        if _check(body, where) != closed[:_CHECK_BYTES]:
            raise Damaged
        return body


def read_key(path: Path) -> bytes:
    """32 bytes, from a file of 64 hexadecimal digits. Raises ValueError or OSError."""
    match = _KEY.fullmatch(path.read_text(errors="replace"))
    if match is None:
        raise ValueError("--sessions.key-file must hold 64 hexadecimal digits (openssl rand -hex 32)")
    return bytes.fromhex(match[1])


def read_password(path: Path) -> str:
    """The first line of a file. Raises ValueError or OSError."""
    lines = path.read_text(errors="replace").splitlines()
    if not lines or not lines[0]:
        raise ValueError("--sessions.redis-password-file must hold the password in its first line")
    return lines[0]


def _check(body: bytes, where: bytes) -> bytes:
    """Against disks that fail, not against people."""
    return hashlib.sha256(where + body).digest()[:_CHECK_BYTES]


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # the extra `encryption`
    except ImportError:
        raise ValueError("cryptography is not installed: --sessions.key-file needs '.[encryption]'") from None
    return AESGCM(key)


def _decrypted(cipher: AESGCM, closed: bytes, where: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # there, since the cipher is

    try:
        return cipher.decrypt(closed[:_NONCE_BYTES], closed[_NONCE_BYTES:], where)
    except (InvalidTag, ValueError):
        raise Damaged from None
