"""The servers of the demo: one process, or one for each half beside it.

Knows which flags join them. Does not know what is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from demo.triton.server import triton
from exporters.triton_repository import write_repository
from loadtest.server_process import Launched, launched
from serving.bundle import load_bundle
from serving.runtime.cpus import usable_cpus

ONNX, TRITON = "onnx", "triton"
ENGINE_SECONDS = 600.0
"""For an engine that compiles before it serves."""


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
    """The server, with ``flags``; with ``engine`` and triton, that half is a process beside it.

    ``language_flags``: of the language half, where it is one. Logs go into ``out``.

    Raises:
        LaunchError: one of them did not become ready.
    """
    halves: list[str] = []
    environment: dict[str, str] = {}
    with ExitStack() as running:
        if engine is not None:
            log, options = out / "language.log", ["--engine", engine, *language_flags]
            language = running.enter_context(launched(bundle, log, options, ENGINE_SECONDS, module="serving.llm"))
            halves += ["--language", f"grpc://{language.address}"]
        if vision == TRITON:
            repository = out / "model_repository"
            write_repository(load_bundle(bundle), repository)
            models = running.enter_context(triton(repository, out / "triton.log", threads=usable_cpus()))
            halves += ["--vision", f"triton://{models.address}", "--admission.encode-concurrency", "2"]  # on a CPU
            environment["MEDIROUND_TRITON__ADMIN_KEY"] = models.admin_key  # flags can be read by anybody here
        yield running.enter_context(
            launched(bundle, out / "server.log", [*halves, *flags], environment=environment)
        )
