"""The servers of the demo: one process, or one for each half beside it. Halves may outlive the server.

Knows which flags join them. Does not know what is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from demo.triton.server import triton
from exporters.triton_repository import write_repository
from loadtest.server_process import Launched, launched
from serving.bundle import load_bundle
from serving.runtime.cpus import usable_cpus

ONNX, TRITON = "onnx", "triton"
ENGINE_SECONDS = 600.0
"""For an engine that compiles before it serves."""


@dataclass(frozen=True, slots=True)
class Halves:
    """What joins a server to those that are processes of their own."""

    flags: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


@contextmanager
def stack(
    bundle: Path,
    out: Path,
    engine: str | None,
    vision: str,
    flags: Sequence[str] = (),
    *,
    language_flags: Sequence[str] = (),
) -> Iterator[Launched]:
    """The server, with ``flags``, and its ``halves``; logs go into ``out``. Raises LaunchError."""
    with (
        halves(bundle, out, engine, vision, language_flags) as joined,
        server(bundle, out / "server.log", joined, flags) as running,
    ):
        yield running


@contextmanager
def server(bundle: Path, log: Path, joined: Halves, flags: Sequence[str] = ()) -> Iterator[Launched]:
    """Raises LaunchError where it did not become ready."""
    with launched(bundle, log, [*joined.flags, *flags], environment=joined.environment) as running:
        yield running


@contextmanager
def halves(
    bundle: Path, out: Path, engine: str | None, vision: str, language_flags: Sequence[str] = ()
) -> Iterator[Halves]:
    """With ``engine`` and triton, that half is a process of its own.

    ``language_flags``: of the language half, where it is one. Logs go into ``out``.

    Raises:
        LaunchError: one of them did not become ready.
    """
    joined = Halves()
    with ExitStack() as running:
        if engine is not None:
            log, options = out / "language.log", ["--engine", engine, *language_flags]
            language = running.enter_context(launched(bundle, log, options, ENGINE_SECONDS, module="serving.llm"))
            joined.flags.extend(["--language", f"grpc://{language.address}"])
        if vision == TRITON:
            repository = out / "model_repository"
            write_repository(load_bundle(bundle), repository)
            models = running.enter_context(triton(repository, out / "triton.log", threads=usable_cpus()))
            on_a_cpu = ["--admission.encode-concurrency", "2"]
            joined.flags.extend(["--vision", f"triton://{models.address}", *on_a_cpu])
            joined.environment["MEDIROUND_TRITON__ADMIN_KEY"] = models.admin_key  # flags can be read by anybody
        yield joined
