"""Names: the caller's, from what an authenticated connection says of its peer, and those that callers make.

Knows certificates' names and the forms of ids. Does not know what a caller may do: sessions and uploads belong to
one caller each, and there are no other rights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from serving.errors import InvalidInput
from serving.runtime.digest import digest

ANONYMOUS = "anonymous"
"""Every peer of a server without mutual TLS: they are one caller."""

SESSION = "x-mediround-session"
"""Metadata by which a caller names the session of a call, for proxies."""

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{22,64}")
_DISTINCT = 8
"""Characters of 128 random bits: fewer are a number or a name that was padded, which others may guess."""
_SUBJECT = "x509_subject"
_ALTERNATIVE_NAMES = "x509_subject_alternative_name"


def caller_of(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """The peer's name: its certificate's subject; its first alternative name where the subject is empty.

    The server asks for a certificate only to verify it, so one that is seen here was verified.
    """
    for kind in (_SUBJECT, _ALTERNATIVE_NAMES):
        for name in auth_context.get(kind, ()):
            if name:
                return f"{kind}:{name.decode(errors='backslashreplace')}"
    return ANONYMOUS


def account_of(caller: str, peer: str) -> str:
    """In whose budget sessions of the anonymous caller count: the connection's, by gRPC's name of the peer. Empty
    for a caller with a certificate, whose budget is its own.
    """
    return digest("account", peer).hex() if caller == ANONYMOUS else ""


def check_session_id(session_id: str, field: str) -> None:
    """Raises InvalidInput (``field``) for an id that a caller must not give to a new session."""
    if not _SESSION_ID.fullmatch(session_id) or len(set(session_id)) < _DISTINCT:
        words = 'must be 128 random bits as 22 to 64 characters of A-Z, a-z, 0-9, "-" and "_"'
        raise InvalidInput(field, words)


def check_session(metadata: Iterable[tuple[str, str | bytes]] | None, session_id: str) -> None:
    """Raises InvalidInput where the call's metadata names another session than its request."""
    if any(value != session_id for key, value in metadata or () if key == SESSION):
        raise InvalidInput(SESSION, "must be the session of the request")
