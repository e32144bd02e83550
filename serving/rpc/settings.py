"""Settings that every server process has: its bundle, where it listens, and how it ends.

Knows what is safe to listen on. Does not know what is served, and builds nothing.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.logs import Format

Positive = Annotated[int, Field(gt=0, lt=1 << 31)]
Bytes = Annotated[int, Field(gt=0, lt=1 << 53)]
SomeBytes = Annotated[int, Field(ge=0, lt=1 << 53)]
"""0: none."""
Seconds = Annotated[float, Field(gt=0, le=366 * 24 * 3600, allow_inf_nan=False)]
"""Up to a year, so that every clock and every protocol below can hold it."""
MIB = 1 << 20

_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^:\[\],/\s]+):(\d{1,5})")
_LAST_PORT = 65_535
_REQUIRED = "must be given"
_WORDS = {
    "Input should be": "must be",
    "Extra inputs are not permitted": "must be left out: there is no such setting",
}


def listen_address(text: str) -> str:
    """HOST:PORT to listen on; port 0 takes a free one. Raises ValueError."""
    return _checked(text, first_port=0)


def peer_address(text: str) -> str:
    """HOST:PORT of a server. Raises ValueError."""
    return _checked(text, first_port=1)


def _checked(text: str, first_port: int) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"must be HOST:PORT, an IPv6 host in brackets: {text!r} is not")
    if not first_port <= int(match[1]) <= _LAST_PORT:
        raise ValueError(f"must have a port from {first_port} to {_LAST_PORT}: {text!r} has not")
    return text


def problems(error: ValidationError) -> str:
    """What is wrong with settings, in one line: each flag, and what it must be."""
    return "; ".join(_problem(each) for each in error.errors())


def _problem(detail: ErrorDetails) -> str:
    """pydantic's words, with the flag as their subject."""
    words = _REQUIRED if detail["type"] == "missing" else detail["msg"].removeprefix("Value error, ")
    for theirs, ours in _WORDS.items():
        words = words.replace(theirs, ours)
    if not detail["loc"]:
        return words  # about several flags, which it names
    return f"--{'.'.join(map(str, detail['loc'])).replace('_', '-')}: {words}"


ListenAddress = Annotated[str, AfterValidator(listen_address)]
PeerAddress = Annotated[str, AfterValidator(peer_address)]


class SettingsSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def refuse_unused(section: str, options: SettingsSection, needs: str) -> None:
    """No option is ignored in silence. Raises ValueError when one of the section is given: ``needs`` is what it
    would take.
    """
    for name in sorted(options.model_fields_set):
        raise ValueError(f"--{section}.{name.replace('_', '-')} must be left out unless {needs}")


class TlsSettings(SettingsSection):
    """PEM files. With ``client_ca`` every client must present a certificate that it signed."""

    certificate: Path | None = None
    """PEM file of the server's certificate chain."""
    private_key: Path | None = None
    """PEM file of that certificate's private key."""
    client_ca: Path | None = None
    """PEM file of the authorities that every client's certificate must descend from; without it none is asked for.
    """

    @property
    def enabled(self) -> bool:
        return self.certificate is not None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private-key must be given together")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("certificate and private-key must be given with client-ca")
        return self


class PeerTlsSettings(SettingsSection):
    """PEM files for a peer behind TLS; ``certificate`` and ``private_key`` for mutual TLS."""

    ca: Path | None = None
    """PEM file of the authorities that the peer's certificate must descend from; the system's by default."""
    certificate: Path | None = None
    """PEM file of this client's certificate chain, for mutual TLS."""
    private_key: Path | None = None
    """PEM file of that certificate's private key."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private-key must be given together")
        return self


class ServerSettings(BaseSettings):
    """By flag or environment; a flag wins."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_nested_delimiter="__",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        use_attribute_docstrings=True,
    )

    bundle: Path
    """Directory of the model bundle."""
    listen: ListenAddress
    """HOST:PORT. Beyond loopback this needs TLS or --allow-insecure-bind. Port 0 takes a free one."""
    allow_insecure_bind: bool = False
    """Listen beyond loopback without TLS: anyone on the network can then read images and masks."""
    drain_seconds: Seconds = 30.0
    """Seconds that calls in flight have to finish after SIGTERM."""
    stop_with_stdin: bool = False
    """Stop, as after SIGTERM, when standard input ends: for a program that starts this server as its own, and
    that may be killed.
    """
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""
    log_format: Format = "text"
    """text: words, then name=value. json: one object a line."""
    metrics_listen: Annotated[str, AfterValidator(lambda text: text and listen_address(text))] = ""
    """HOST:PORT of the metrics; empty: none. Port 0 takes a free one. Beyond loopback this needs
    --allow-open-metrics. ``python -m serving`` has its status page there, too; a language server has none.
    """
    allow_open_metrics: bool = False
    """Serve metrics beyond loopback, without TLS: anyone on the network can then see how busy this server is."""
    tls: TlsSettings = TlsSettings()

    @model_validator(mode="after")
    def _safe_bind(self) -> Self:
        if not (self.tls.enabled or self.allow_insecure_bind or is_loopback(self.listen)):
            raise ValueError(
                f"--listen {self.listen} reaches beyond loopback: --tls.certificate and --tls.private-key must be "
                "given, or --allow-insecure-bind set"
            )
        return self

    @model_validator(mode="after")
    def _safe_metrics(self) -> Self:
        if self.metrics_listen and not (self.allow_open_metrics or is_loopback(self.metrics_listen)):
            raise ValueError(
                f"--metrics-listen {self.metrics_listen} reaches beyond loopback: --allow-open-metrics must be set"
            )
        return self


def is_loopback(address: str) -> bool:
    """Whether ``host:port`` stays on this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
