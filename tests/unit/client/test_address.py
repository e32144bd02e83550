"""Addresses: what a client may be made with, and what is refused at once, with what to pass instead."""

from __future__ import annotations

import pytest

from mediround import AsyncClient, Client, InvalidArgument
from mediround._address import checked, host_and_port


@pytest.mark.parametrize(
    ("address", "leads_to"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("localhost:1", ("localhost", 1)),
        ("serving_1.example.org:65535", ("serving_1.example.org", 65535)),
        ("[::1]:50051", ("::1", 50051)),
        ("dns:host:50051", ("host", 50051)),
        ("dns:///host:50051", ("host", 50051)),
        ("dns://1.1.1.1/host:50051", ("host", 50051)),
        ("ipv4:10.0.0.1:50051", ("10.0.0.1", 50051)),
        ("ipv6:[::1]:50051", ("::1", 50051)),
        ("ipv4:10.0.0.1:50051,10.0.0.2:50051", None),
        ("unix:/run/mediround.sock", None),
        ("unix:///run/mediround.sock", None),
        ("unix-abstract:mediround", None),
    ],
)
def test_what_grpc_takes(address: str, leads_to: tuple[str, int] | None) -> None:
    assert checked(address) == address
    assert host_and_port(address) == leads_to


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:50051", "http://"),
        ("https://host:50051/", "https://"),
        ("grpc://host:50051", "grpc://"),
        ("127.0.0.1", "no port"),
        ("host:", "no port"),
        ("host:http", "no port"),
        ("host:0", "from 1 to 65535"),
        ("host:65536", "from 1 to 65535"),
        ("host:99999999999999999999", "from 1 to 65535"),
        ("host:-1", "from 1 to 65535"),
        (":50051", "no host"),
        ("::1:50051", "brackets"),
        ("[::1]", "no port"),
        ("[::g]:50051", "IP address"),
        ("[127.0.0.1]:50051", "IP address"),
        ("256.0.0.1:50051", "IP address"),
        ("127.0.1:50051", "IP address"),
        ("host:50051/path", "no port from 1"),
        ("user@host:50051", "host that is none"),
        ("a/b:50051", "host that is none"),
        ("host :50051", "white space"),
        (" host:50051", "white space"),
        ("host:50051\n", "white space"),
        ("h\u00f6st:50051", "ASCII"),
        ("host:\u0665", "ASCII"),
        ("ipv4:10.0.0.1", "no port"),
        ("ipv6:[::1]", "no port|IP address"),
        ("unix:", "no path"),
        ("", "no port"),
        (b"127.0.0.1:50051", "bytes"),
        (50051, "int"),
        (None, "NoneType"),
    ],
)
def test_what_can_never_be_reached_is_said_when_the_client_is_made(address: object, words: str) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(InvalidArgument, match=words) as caught:
            make(address)
        assert [violation.field for violation in caught.value.violations] == ["address"]
        assert not hasattr(caught.value, "retry_after")
