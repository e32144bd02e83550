"""A real Triton of one's own on a CPU, for as long as a block runs: for the demo, the benchmarks and the tests.

Knows how ``make env-triton`` lays the server down, its flags, and what it leaves behind. Does not know models.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.server_process import LaunchError, free_port

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # Linux's shared memory, not a temporary file
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Installation:
    """What ``make env-triton`` made."""

    directory: Path

    @property
    def server_directory(self) -> Path:
        return self.directory / "pytriton" / "tritonserver"

    @property
    def backends(self) -> Path:
        return self.server_directory / "backends"

    @property
    def python(self) -> Path:
        return self.directory / "stub" / "bin" / "python"

    @property
    def complete(self) -> bool:
        return (self.backends / "tensorrt" / "model.py").is_file() and self.python.exists()

    def environment(self) -> dict[str, str]:
        """The stub imports what ``python3`` of PATH would, and needs that Python's library. Its ONNX Runtime tells
        nobody of itself.
        """
        asked = [str(self.python), "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"]
        library = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
        path = f"{self.python.parent.absolute()}:{os.environ['PATH']}"
        return os.environ | {"PATH": path, "LD_LIBRARY_PATH": library, "ORT_DISABLE_TELEMETRY": "1"}


INSTALLED = Installation(Path("build/triton"))


@dataclass(frozen=True, slots=True)
class Triton:
    """A server that runs, or did."""

    process: subprocess.Popen[bytes]
    grpc_port: int
    http_port: int
    metrics_port: int
    admin_key: str = field(repr=False)
    memory: str
    """What the names of its stubs' shared memory begin with."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def metrics(self) -> str:
        """What Prometheus would read."""
        return _got(f"http://127.0.0.1:{self.metrics_port}/metrics")

    def stubs(self) -> list[int]:
        """Process ids of the models' Python stubs."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children]


@contextmanager
def triton(
    repository: Path,
    log: Path,
    *,
    flags: tuple[str, ...] = (),
    installation: Installation = INSTALLED,
    threads: int = 1,
    ready_within: float = 120.0,
    grpc_port: int = 0,
    admin_key: str = "",
) -> Iterator[Triton]:
    """Serve ``repository`` on loopback, each graph with ``threads`` threads; the server writes to ``log``.

    Raises:
        LaunchError: it is not installed, ended before it was ready, or was not ready in time.
    """
    if not installation.complete:
        raise LaunchError(f"no Triton in {installation.directory}: run `make env-triton`")
    prefix = f"mediround_stub_{secrets.token_hex(4)}_"
    ports = grpc_port or free_port(), free_port(), free_port()
    key = admin_key or secrets.token_urlsafe(16)
    command = [*_command(repository, installation, ports, key, prefix), *flags]
    with log.open("w") as stream:
        process = subprocess.Popen(  # noqa: S603  # our own command
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=installation.environment() | {"MEDIROUND_STUB_THREADS": str(threads)},
            start_new_session=True,
        )
        try:
            server = Triton(process, *ports, key, prefix)
            _wait(server, log, ready_within)
            yield server
        finally:
            _stop(process)
            for left in SHARED_MEMORY.glob(f"{prefix}*"):  # of stubs that were killed
                left.unlink(missing_ok=True)


def _command(
    repository: Path, installation: Installation, ports: tuple[int, int, int], key: str, prefix: str
) -> list[str]:
    found, loopback = installation.server_directory.absolute(), "127.0.0.1"
    grpc_port, http_port, metrics_port = ports
    return [
        str(found / "bin" / "tritonserver"),
        f"--model-repository={repository.absolute()}",
        f"--backend-directory={found / 'backends'}",
        f"--cache-directory={found / 'caches'}",
        f"--grpc-address={loopback}",
        f"--grpc-port={grpc_port}",
        f"--http-address={loopback}",
        f"--http-port={http_port}",
        f"--metrics-address={loopback}",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--exit-timeout-secs=5",
        # Whoever can name a shared-memory key can read it: for the orchestrator alone, on both doors.
        f"--grpc-restricted-protocol=shared-memory,model-repository:admin-key={key}",
        f"--http-restricted-api=shared-memory,model-repository:admin-key={key}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        "--backend-config=python,shm-default-byte-size=33554432",
    ]


def _wait(server: Triton, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise LaunchError(f"Triton ended with {server.process.returncode}:\n{log.read_text()[-4000:]}")
        try:
            _got(f"http://127.0.0.1:{server.http_port}/v2/health/ready")
        except OSError:  # nobody listens yet, or not ready
            time.sleep(0.1)
        else:
            return
    raise LaunchError(f"Triton was not ready within {seconds:.0f} s:\n{log.read_text()[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Its stubs leave with it; one that hangs, or whose server was killed, is killed with its group."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _got(url: str) -> str:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the host names
    with direct.open(url, timeout=5) as reply:
        return str(reply.read().decode())
