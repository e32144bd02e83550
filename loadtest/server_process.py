"""A server of one's own, in a process beside this one, for as long as a block runs.

Knows how ``python -m MODULE`` is started, when it is ready, and how it is stopped. Does not know bundles.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mediround import channels

STOP_SECONDS = 20.0


class LaunchError(Exception):
    """The server ended or did not become ready; its last words are in the message."""


@dataclass(frozen=True, slots=True)
class Launched:
    address: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def peak_memory(self) -> int:
        """Most resident bytes so far. Linux only."""
        return peak_memory(self.pid)


def peak_memory(pid: int | str = "self") -> int:
    """Most resident bytes of a process so far. Linux only."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


@contextmanager
def launched(
    bundle: Path,
    log: Path,
    flags: Sequence[str] = (),
    ready_within: float = 120.0,
    *,
    module: str = "serving",
    script: Path | None = None,
    address: str = "",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Launched]:
    """Serve ``bundle`` by ``python -m module`` on ``address``, or a free loopback port; it writes to ``log``.

    ``script``: a file to run in place of a module. ``environment``: beside this process's own.

    Raises:
        LaunchError: it ended before it was ready, or was not ready in time.
    """
    address = address or f"127.0.0.1:{free_port()}"
    program = ["-m", module] if script is None else [str(script)]
    command = [sys.executable, *program, "--bundle", str(bundle), "--listen", address, *flags]
    with log.open("w") as stream:
        settings = {**os.environ, **(environment or {})}
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=settings)  # noqa: S603  # our own server
        try:
            _wait(process, address, log, ready_within)
            yield Launched(address, process)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with channels.blocking(address, None) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise LaunchError(f"the server ended with {process.returncode}:\n{log.read_text()[-2000:]}")
            try:
                status = health.Check(health_pb2.HealthCheckRequest(), timeout=1.0).status
            except grpc.RpcError:
                status = health_pb2.HealthCheckResponse.UNKNOWN
            if status == health_pb2.HealthCheckResponse.SERVING:
                return
            time.sleep(0.1)
    raise LaunchError(f"the server was not ready within {seconds:.0f} s:\n{log.read_text()[-2000:]}")


def free_port() -> int:
    """A port of this machine on which nothing listens.

    It lies below those that the kernel lends to connections that go out (from 32768 on): else a server that takes
    half a minute to start could find it lent meanwhile.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
