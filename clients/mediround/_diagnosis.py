"""Why a connection fails for good: the wrong certificates, or TLS on one side alone.

Knows gRPC's words for a failed handshake, and asks the server's port where they say too little. Does not know
calls.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

from mediround._address import host_and_port
from mediround._tls import Tls
from mediround.errors import AccessDenied, MediRoundError, Unavailable

_NOT_CONNECTED = "failed to connect to all addresses"
_CUT_OFF = ("Socket closed", "Connection reset", "Broken pipe", "Endpoint closing", "End of TCP stream")
_PROBE_SECONDS = 2.0

_NO_TLS_THERE = "the server does not speak TLS at this address: leave out tls=, or name its TLS port"
_NO_TLS_HERE = "the server speaks TLS: pass tls=Tls(ca=...)"
_UNKNOWN_CA = "the server's certificate has an issuer that is not trusted here: pass it, tls=Tls(ca=...)"
_OTHER_NAME = "the server's certificate names another host than the address: use a name that it holds"
_EXPIRED = "the server's certificate has expired, or is not valid yet: the server needs another one"
_NOT_ADMITTED = (
    "the server does not accept this client's certificate, or asks for one: check certificate and key in tls="
)
_FAILED = "the TLS handshake failed: check tls= and the address"


def explained(error: MediRoundError, address: str, tls: Tls | None, seconds: float) -> MediRoundError:
    """``error``, or, where the connection can never be made as things are, AccessDenied with what to change.

    May take ``seconds``, and at most 2: the server's port is asked where gRPC's words say too little.
    """
    words = str(error)
    if not isinstance(error, Unavailable) or error.not_begun or _NOT_CONNECTED not in words:
        return error
    hint = _handshake(words)
    if hint is None and any(cut in words for cut in _CUT_OFF):
        hint = _asked(address, tls, min(seconds, _PROBE_SECONDS))
    if hint is None:
        return error
    denied = AccessDenied(hint)
    denied.request_id = error.request_id
    return denied


def _handshake(words: str) -> str | None:
    """What gRPC's words for a failed handshake mean."""
    if "Hostname Verification Check failed" in words:
        return _OTHER_NAME
    if "TSI_PROTOCOL_FAILURE" not in words:
        return None
    if "WRONG_VERSION_NUMBER" in words or "HTTP_REQUEST" in words:
        return _NO_TLS_THERE
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return _EXPIRED if "expired" in words or "not yet valid" in words else _UNKNOWN_CA
    return _NOT_ADMITTED if "ALERT" in words and "CERT" in words else _FAILED


def _asked(address: str, tls: Tls | None, seconds: float) -> str | None:
    """Shake hands as this client would, and see."""
    place = host_and_port(address)
    if place is None or seconds <= 0:
        return None
    with suppress(OSError):
        context = (tls or Tls()).context()
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(place, timeout=seconds) as plain:
            return _shaken(context, plain, place[0], tls)
    return None


def _shaken(context: ssl.SSLContext, plain: socket.socket, host: str, tls: Tls | None) -> str | None:
    try:
        with context.wrap_socket(plain, server_hostname=host) as wrapped:
            if tls is None:
                return _NO_TLS_HERE
            # TLS 1.3 judges a client's certificate after the handshake; a server that takes it speaks first.
            return None if wrapped.recv(1) else _NOT_ADMITTED
    except ConnectionError:
        return None if tls is None else _NOT_ADMITTED
    except ssl.SSLError as error:
        # An alert is a word of TLS, and so is a wish for a certificate.
        if "ALERT" in (error.reason or "") or "CERTIFICATE" in (error.reason or ""):
            return _NO_TLS_HERE if tls is None else _NOT_ADMITTED
    return None
