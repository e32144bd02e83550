"""A server's address, checked when a client is made: a mistake for good is not told as an outage later.

Knows the forms that gRPC takes for a name. Does not know channels or certificates.
"""

from __future__ import annotations

import ipaddress
import re

from mediround.errors import FieldViolation, InvalidArgument

_FORMS = "pass host:port, [IPv6]:port or unix:/path, for example 127.0.0.1:50051"
_LOCAL = ("unix:", "unix-abstract:")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_MAX_PORT = 65535


def checked(address: object) -> str:
    """The address as gRPC takes it.

    Raises:
        InvalidArgument: it is no ``host:port`` (a DNS name, IPv4 or ``[IPv6]``; also as ``dns:host:port``,
            ``ipv4:…``, ``ipv6:…``) and no ``unix:path``.
    """
    if not isinstance(address, str):
        raise _refused(f"is a {type(address).__name__}; {_FORMS}")
    if not address.isprintable() or not address.isascii() or " " in address:
        raise _refused(f"holds white space or a character outside ASCII; {_FORMS}")
    if address.startswith(_LOCAL):
        return _local(address)
    scheme, separator, rest = address.partition("://")
    if separator and scheme != "dns":
        raise _refused(f"begins with {scheme}://; {_FORMS}; TLS is said by tls=")
    if address.startswith("dns:"):
        _name(address.removeprefix("dns:") if not separator else rest.rpartition("/")[2])
    elif address.startswith(("ipv4:", "ipv6:")):
        for each in address[5:].split(","):
            _numbers(each, ipaddress.IPv4Address if address.startswith("ipv4:") else ipaddress.IPv6Address)
    else:
        _name(address)
    return address


def host_and_port(address: str) -> tuple[str, int] | None:
    """Where a checked address leads by TCP; None for a socket of this machine or several addresses."""
    if address.startswith(_LOCAL) or "," in address:
        return None
    bare = address.rpartition("/")[2] if "://" in address else re.sub(r"^(dns|ipv4|ipv6):", "", address)
    host, _, port = bare.rpartition(":")
    return host.strip("[]"), int(port)


def _local(address: str) -> str:
    if not address.partition(":")[2].strip("/"):
        raise _refused("names no path after unix:")
    return address


def _name(text: str) -> None:
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]"):
        raise _refused(f"has no port; {_FORMS}")
    if not host:
        raise _refused(f"has no host; {_FORMS}")
    if host.startswith("[") and host.endswith("]"):
        _ip(host[1:-1], ipaddress.IPv6Address)
    elif ":" in host:
        raise _refused(f"is an IPv6 address without brackets, or has two ports; {_FORMS}")
    elif not _HOST.fullmatch(host):
        raise _refused(f"has a host that is none; {_FORMS}")
    elif re.fullmatch(r"[0-9.]+", host):
        _ip(host, ipaddress.IPv4Address)
    _port(port)


def _numbers(text: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> None:
    host, separator, port = text.rpartition(":")
    if not separator:
        raise _refused(f"has no port; {_FORMS}")
    _ip(host.removeprefix("[").removesuffix("]"), kind)
    _port(port)


def _ip(text: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> None:
    try:
        kind(text)
    except ValueError:
        raise _refused(f"has an IP address that is none; {_FORMS}") from None


def _port(text: str) -> None:
    if not text.isdecimal() or not 1 <= int(text[:6]) <= _MAX_PORT or len(text) > 5:
        raise _refused(f"has no port from 1 to {_MAX_PORT}; {_FORMS}")


def _refused(description: str) -> InvalidArgument:
    return InvalidArgument(f"address: {description}", (FieldViolation("address", description),))
