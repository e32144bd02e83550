"""The service without a server that somebody has to run: for programs that hold images and questions themselves.

``offline`` is the orchestrator in one process; it knows how the parts are put together, and what stands in for
those that a program does not bring: ONNX engines, stores in this process's memory, a gate that lets all in.
``embedded`` is the whole service, as the caller's own process beside it: an entry point, by which the client's
batch command finds it. Does not know settings, gRPC, or halves that are servers of their own
(``serving.engines``).
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO

from serving.admission.permits import OpenGate
from serving.bundle import Bundle
from serving.domain import Runtimes
from serving.geometry import Geometry
from serving.llm.onnx import OnnxLanguage
from serving.observer import NullObserver, Observer
from serving.orchestrator import Orchestrator
from serving.ports import EmbeddingStore, Gate, LanguageEngine, SessionStore, VisionEngine
from serving.prompt import PromptTemplate
from serving.sessions.crops import Crops
from serving.sessions.embedding import Encoding
from serving.sessions.encode_on_open import EncodeOnOpen
from serving.sessions.keeper import SessionKeeper
from serving.sessions.preparation import ImagePreparation
from serving.stores.embeddings import MemoryEmbeddings
from serving.stores.sessions import MemorySessions
from serving.vision.onnx import OnnxVision

PREFIX_BYTES = 1 << 28
EMBEDDING_BYTES = 1 << 26
SESSIONS, SESSION_BYTES, SESSION_IDLE_SECONDS = 64, 1 << 30, 3600.0
MAX_ROUNDS = 64
"""Of one session."""

_LOG = logging.getLogger(__name__)
_SERVES = re.compile(r"serving .* on (127\.0\.0\.1:\d+)\s*$")
_ANY_PORT = "127.0.0.1:0"
_FLAGS = (
    "--stop-with-stdin",
    "--admission.encode-on-open",
    "never",
    "--drain-seconds",
    "5",
)
_ENGINE_VARIABLES, _VARIABLES = "MEDIROUND_ENGINES__", "MEDIROUND_"
_STOP_SECONDS = 15.0
_LAST_WORDS, _WORDS_OF_A_LINE = 5, 300
"""Lines of its log that an error holds; characters of each."""


@contextmanager
def embedded(
    bundle: Path, threads: int | None = None, *, ready_within: float = 900.0
) -> Iterator[tuple[str, Future[str]]]:
    """The service of a bundle on a free loopback port, for as long as the block runs: its address, HOST:PORT, and
    why it ended for good, which is told once it has.

    It is a process of its own, and ends with this one, also where this one is killed. Where it ends by itself, it
    is started again on the same port, unless it never served since its last start. Of the settings in the
    environment it takes those of its engines alone (``MEDIROUND_ENGINES__PROVIDER=cuda``). An image is encoded
    when its first question comes.

    Args:
        threads: of each half within an operator; None: the CPUs that this process may use.
        ready_within: seconds from each start until it must serve.

    Raises:
        RuntimeError: it ended, or did not serve in time; the message holds its last words.
    """
    command = [sys.executable, "-P", "-m", "serving", "--bundle", os.fspath(bundle), *_FLAGS]
    own = _Own(command + ([] if threads is None else ["--engines.threads", str(threads)]), ready_within)
    try:
        yield own.address.result(), own.ended
    finally:
        own.end()


class _Own:
    """Keeps a server of one's own: starts it, reads its log so that it never waits for a reader, starts it again.

    Attributes:
        address: where it serves; or RuntimeError.
        ended: why it ended for good.
    """

    def __init__(self, command: Sequence[str], ready_within: float) -> None:
        self.address: Future[str] = Future()
        self.ended: Future[str] = Future()
        self._command, self._ready_within = command, ready_within
        self._beginning, self._is_over = threading.Lock(), False
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._keep, name="embedded", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Requests may finish first, for some seconds."""
        with self._beginning:
            self._is_over = True
            process = self._process
        if process is not None:
            with suppress(BrokenPipeError):
                _pipe(process.stdin).close()
            self._thread.join(_STOP_SECONDS)
            process.kill()  # if it has not ended
        self._thread.join()

    def _keep(self) -> None:
        listen, served = _ANY_PORT, True
        while served and not self._is_over:
            try:
                served, words = self._read(self._begun(listen))
            except OSError as error:  # of a machine that has no room for a process
                served, words = False, str(error)
            if not self.address.done():
                self.address.set_exception(RuntimeError(f"the service did not start: {words}"))
                return
            listen = self.address.result()
            if not served:
                self.ended.set_result(f"the service ended and did not start again: {words}")
            elif not self._is_over:
                _LOG.warning("the service ended and is started again: %s", words)

    def _begun(self, listen: str) -> subprocess.Popen[str]:
        with self._beginning:
            if self._is_over:
                raise OSError("it is to end")
            self._process = subprocess.Popen(  # noqa: S603  # our own server
                [*self._command, "--listen", listen],
                env=_environment(),
                stdin=subprocess.PIPE,  # which ends with this process, however it ends
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is this process's: it lets requests finish first
            )
            return self._process

    def _read(self, process: subprocess.Popen[str]) -> tuple[bool, str]:
        """Until it ends: whether it served, and how it ended."""
        began, served = time.monotonic(), False
        last: deque[str] = deque(maxlen=_LAST_WORDS)
        late = threading.Timer(self._ready_within, process.kill)
        late.daemon = True
        late.start()
        with process:
            for line in _pipe(process.stdout):
                last.append(line.strip()[:_WORDS_OF_A_LINE])
                if not served and (serves := _SERVES.search(line)):
                    served = True
                    late.cancel()
                    if not self.address.done():
                        self.address.set_result(serves[1])
        late.cancel()
        ended = f"exit code {process.returncode} after {time.monotonic() - began:.0f} s"
        return served, f"{ended}: {' | '.join(last)}"


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_ENGINE_VARIABLES) or not name.startswith(_VARIABLES)
    }


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ValueError("the process must have been started with pipes")
    return stream


@asynccontextmanager
async def offline(
    bundle: Bundle,
    threads: int,
    *,
    language: LanguageEngine | None = None,
    vision: VisionEngine | None = None,
    embeddings: EmbeddingStore | None = None,
) -> AsyncIterator[Orchestrator]:
    """An orchestrator of this bundle while the block runs; its engines, also those given, are closed at the end.

    Args:
        threads: for each operator of the ONNX engines, which are made where no other is given.

    Raises:
        BundleError: a graph is not what the manifest says.
    """
    async with AsyncExitStack() as stack:
        language = language or OnnxLanguage(bundle, threads, PREFIX_BYTES)
        stack.push_async_callback(language.close)
        vision = vision or OnnxVision(bundle, threads)
        stack.push_async_callback(vision.close)
        pixels = stack.enter_context(ThreadPoolExecutor(2, thread_name_prefix="pixels"))
        form, geometry = PromptTemplate.of(bundle), Geometry.of(bundle)
        yield compose(form, geometry, language, vision, pixels, embeddings=embeddings, model_digest=bundle.digest)


def compose(  # the first five are what every orchestrator has of its own
    form: PromptTemplate,
    geometry: Geometry,
    language: LanguageEngine,
    vision: VisionEngine,
    pixels: Executor,
    *,
    openings: Executor | None = None,
    embeddings: EmbeddingStore | None = None,
    sessions: SessionStore | None = None,
    gate: Gate | None = None,
    observer: Observer | None = None,
    max_rounds: int = MAX_ROUNDS,
    max_images_ahead: int = 0,
    model_digest: str = "",
    engine_digest: Callable[[Runtimes], str] = lambda _: "",
) -> Orchestrator:
    """The orchestrator of these parts. ``openings`` works on the pixels of new images; by default, ``pixels``.

    ``max_images_ahead``: most images with an embedding that nobody has asked for yet (``EncodeOnOpen``).
    """
    store = sessions or MemorySessions(SESSIONS, SESSION_BYTES, SESSION_IDLE_SECONDS, time.monotonic)
    embeddings = embeddings or MemoryEmbeddings.of(geometry.image, EMBEDDING_BYTES)
    gate, observer = gate or OpenGate(), observer or NullObserver()
    encoding = Encoding(vision, geometry, pixels)
    prepare = ImagePreparation(language, embeddings, encoding, gate, form)
    ahead = EncodeOnOpen(prepare, embeddings, observer, time.monotonic, max_images=max_images_ahead)
    crops = Crops(geometry, pixels)
    store.on_gone(ahead.closed)
    store.on_gone(crops.closed)
    return Orchestrator(
        keeper=SessionKeeper(store, geometry, openings or pixels, model_digest),
        language=language,
        vision=vision,
        embeddings=embeddings,
        gate=gate,
        observer=observer,
        form=form,
        geometry=geometry,
        encoding=encoding,
        encode_on_open=ahead,
        crops=crops,
        pixel_executor=pixels,
        max_rounds=max_rounds,
        engine_digest=engine_digest,
    )
