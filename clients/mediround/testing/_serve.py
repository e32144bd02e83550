"""Servers for tests: the scripted one in a thread of this process, or the real one in a process of its own.

Knows how each is started, when it is ready, and how it ends. Does not know what a server answers.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar, overload

import grpc

from mediround import channels
from mediround.testing._edge import SERVES, handlers
from mediround.testing._servicer import ScriptedService
from mediround.testing.script import AskedQuestion, Reply, Script

S_co = TypeVar("S_co", covariant=True)

_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.05
_START_LINE = re.compile(r"serving .* on ([0-9.]+:\d+)")
_LAST_WORDS = 2000


class ServerNotInstalled(Exception):
    """``serve(bundle=...)`` needs the server, mediround-serving, in this Python's environment: install it from a
    checkout of its repository.
    """


class ServerNotStarted(Exception):
    """The server ended, or was not ready in time. The message holds its last words."""


class ScriptedServer:
    """A scripted server that runs. Made by ``serve``.

    Attributes:
        address: ``host:port``, for ``Client`` and ``AsyncClient``; plain text, loopback.
    """

    def __init__(self, address: str, service: ScriptedService) -> None:
        self.address = address
        self._service = service

    @property
    def asked(self) -> tuple[AskedQuestion, ...]:
        """Each question that was not refused by a rule, in the order of arrival."""
        return tuple(self._service.rounds.asked)

    @property
    def open_sessions(self) -> int:
        """Sessions that are open now: 0 after a program that closes what it opens."""
        return len(self._service.sessions)

    def expire(self, session_id: str) -> None:
        """End a session as if its idle time were over. Raises KeyError for one that is not open."""
        self._service.sessions.expire(session_id)

    def lose(self, session_id: str) -> None:
        """Forget a session, as a server does that is started again: ``NotFound`` without a reason.

        Raises KeyError for one that is not open.
        """
        self._service.sessions.lose(session_id)

    def park(self, session_id: str) -> None:
        """Leave a session without its image, as a store does that keeps none: the next question is answered by
        ``NeedsImage``. Raises KeyError for one that is not open.
        """
        self._service.sessions.park(session_id)


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A real server that runs. Made by ``serve``.

    Attributes:
        address: ``host:port``, for ``Client`` and ``AsyncClient``; plain text, loopback.
        log: what it has written so far.
    """

    address: str
    log: Path


class Serving(Generic[S_co]):
    """A server for as long as a ``with``, or an ``async with``, runs."""

    def __init__(self, context: AbstractContextManager[S_co]) -> None:
        self._context = context

    def __enter__(self) -> S_co:
        return self._context.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)

    async def __aenter__(self) -> S_co:
        entering = asyncio.ensure_future(asyncio.to_thread(self._context.__enter__))
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:  # what was started must not outlive its task
            await asyncio.wait([entering])
            if not entering.exception():
                await self.__aexit__(None, None, None)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._context.__exit__, kind, error, trace)


Scripted = Script | Mapping[str, Reply | Sequence[Reply]] | Callable[[AskedQuestion], Reply]
"""A script, or its answers alone."""


@overload
def serve(script: Scripted | None = None) -> Serving[ScriptedServer]: ...
@overload
def serve(
    *, bundle: str | PathLike[str], flags: Sequence[str] = (), ready_within: float = 120.0
) -> Serving[ServerProcess]: ...
def serve(
    script: Scripted | None = None,
    *,
    bundle: str | PathLike[str] | None = None,
    flags: Sequence[str] = (),
    ready_within: float = 120.0,
) -> Serving[ScriptedServer] | Serving[ServerProcess]:
    """A server on a free port of this machine, in a ``with`` or an ``async with``.

    Args:
        script: what each question yields. None: a good mask in the middle of the image.
        bundle: directory of a model: the real server is started on it instead, by ``python -m serving``.
        flags: more of its command line, for example ``("--limits.max-rounds", "3")``.
        ready_within: seconds that it may take to say that it serves.

    Raises:
        ServerNotInstalled: ``bundle`` is given, and this Python has no mediround-serving.
        ServerNotStarted: it ended, or was not ready in time.
        TypeError: both a script and a bundle are given.
    """
    if bundle is None:
        return Serving(_scripted(script if isinstance(script, Script) else Script(script or {})))
    if script is not None:
        raise TypeError("serve() takes a script or a bundle, not both")
    return Serving(_process(fspath(bundle), flags, ready_within))


@contextmanager
def _scripted(script: Script) -> Iterator[ScriptedServer]:
    started: Future[ScriptedServer] = Future()
    stop, loop = asyncio.Event(), asyncio.new_event_loop()
    service = ScriptedService(script)

    async def run() -> None:
        # Without so_reuseport two servers of parallel tests never share a port.
        server = grpc.aio.server(handlers=handlers(service), options=[("grpc.so_reuseport", 0)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        started.set_result(ScriptedServer(f"127.0.0.1:{port}", service))
        await stop.wait()
        await server.stop(0)

    def thread() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(run())
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    worker = threading.Thread(target=thread, name="mediround.testing", daemon=True)
    worker.start()
    server = started.result()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        worker.join()


@contextmanager
def _process(bundle: str, flags: Sequence[str], ready_within: float) -> Iterator[ServerProcess]:
    with tempfile.TemporaryDirectory(prefix="mediround-") as directory:
        log = Path(directory) / "server.log"
        command = [sys.executable, "-m", "serving", "--bundle", bundle, "--listen", "127.0.0.1:0", *flags]
        with log.open("w") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)  # noqa: S603  # our own server
        try:
            yield ServerProcess(_ready(process, log, ready_within), log)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(process: subprocess.Popen[bytes], log: Path, seconds: float) -> str:
    """The address that the server says it serves on, once its health says so, too."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, words = process.poll() is not None, log.read_text(errors="replace")
        if ended and re.search(r"No module named '?serving\b", words):
            raise ServerNotInstalled("this Python has no mediround-serving; install it from its checkout")
        if ended:
            raise ServerNotStarted(f"the server ended with {process.returncode}:\n{words[-_LAST_WORDS:]}")
        found = _START_LINE.search(words)
        if found and _serves(found[1]):
            return found[1]
        time.sleep(_POLL_SECONDS)
    raise ServerNotStarted(f"the server was not ready within {seconds:g} s:\n{log.read_text()[-_LAST_WORDS:]}")


def _serves(address: str) -> bool:
    with channels.blocking(address, None) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
        try:
            return bool(check(b"", timeout=1.0) == SERVES)
        except grpc.RpcError:
            return False
