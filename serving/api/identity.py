"""The caller's name, from what an authenticated connection says of its peer.

Knows certificates' names. Does not know what a caller may do: sessions and uploads belong to one caller each, and
there are no other rights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

ANONYMOUS = "anonymous"
"""Every peer of a server without mutual TLS: they are one caller."""

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
