"""``python -m serving.healthcheck``: ask a server of ours how it is; exit status 0 says that it serves.

For container health checks and start-up scripts; Kubernetes asks by gRPC itself, but not over TLS. Knows the
standard health service and certificates. Does not know what is served.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mediround import InvalidArgument, Tls, __version__, channels
from serving.rpc.settings import PeerAddress, Seconds, SettingsSection, problems

SERVES, DOES_NOT_SERVE, BAD_SETTINGS = 0, 1, 2


class ProbeTlsSettings(SettingsSection):
    """PEM files; ``certificate`` and ``private_key`` where the server asks for a client's."""

    ca: Path | None = None
    """PEM file of the authorities that the server's certificate must descend from; it must name ``address``'s
    host.
    """
    certificate: Path | None = None
    """PEM file of this client's certificate chain, for mutual TLS."""
    private_key: Path | None = None
    """PEM file of that certificate's private key."""


class ProbeSettings(BaseSettings):
    """Settings of ``python -m serving.healthcheck``."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="MEDIROUND_HEALTH_",
        env_nested_delimiter="__",
        cli_prog_name="python -m serving.healthcheck",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        use_attribute_docstrings=True,
    )

    address: PeerAddress = "127.0.0.1:50051"
    """HOST:PORT of the server."""
    service: str = ""
    """Service to ask about: empty for the server as a whole, or ``language`` or ``vision`` for one half."""
    timeout: Seconds = 5.0
    """Seconds to wait for an answer."""
    tls: ProbeTlsSettings = ProbeTlsSettings()
    """With one of them TLS is spoken, else plain text."""


def status(settings: ProbeSettings) -> str:
    """The server's own word: SERVING, NOT_SERVING or UNKNOWN; without an answer, the gRPC code of that.

    Raises:
        InvalidArgument: a certificate cannot be used.
    """
    tls = settings.tls
    parts = (tls.ca, tls.certificate, tls.private_key)
    credentials = Tls(*parts).credentials() if any(parts) else None
    with channels.blocking(settings.address, credentials) as channel:
        request = health_pb2.HealthCheckRequest(service=settings.service)
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=settings.timeout)
        except grpc.RpcError as error:
            return str(error.code().name)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def main() -> int:
    if "--version" in sys.argv[1:]:
        print(__version__)
        return SERVES
    try:
        settings = ProbeSettings(_cli_parse_args=True)
        answer = status(settings)
    except ValidationError as error:
        print(f"python -m serving.healthcheck: {problems(error)}", file=sys.stderr)
        return BAD_SETTINGS
    except InvalidArgument as error:
        print(f"python -m serving.healthcheck: {error}", file=sys.stderr)
        return BAD_SETTINGS
    print(answer)
    return SERVES if answer == "SERVING" else DOES_NOT_SERVE


if __name__ == "__main__":
    sys.exit(main())
