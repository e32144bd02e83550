"""Process plumbing that both servers share: settings, logging, signals, and a failed start in one line.

Knows exit statuses and signals. Does not know what is served.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from pydantic import ValidationError

from mediround import Tls, __version__
from serving import stray_output
from serving.logs import FORMATTERS, Format, as_json, log_warning
from serving.rpc.server import ServerTls
from serving.rpc.settings import ServerSettings, TlsSettings, problems
from serving.runtime.tasks import wait_until_done
from serving.telemetry.exposition import exposed
from serving.telemetry.status import StatusBoard

S = TypeVar("S", bound=ServerSettings)
T = TypeVar("T")

FAULT, START_FAILED = 1, 2
_PIPE_BYTES = 1 << 16
LOG = logging.getLogger("serving")
STRAY = logging.getLogger("stray")
"""What libraries write to stdout and stderr past any logger."""


def run(
    program: str,
    settings_type: type[S],
    serve: Callable[[S], Coroutine[Any, Any, int]],
    cannot_serve: tuple[type[Exception], ...],
) -> int:
    """The exit status: what ``serve`` returns, or 2 after one line that names the fix.

    ``cannot_serve`` are the errors whose message is that line; any other is a fault of ours: logged, and status 1.
    """
    if "--version" in sys.argv[1:]:
        print(__version__)
        return 0
    try:
        settings = settings_type(_cli_parse_args=True)
    except ValidationError as error:
        words = f"{program}: {problems(error)}"
        print(as_json(words) if _wants_json(settings_type) else words, file=sys.stderr)
        return START_FAILED
    with logging_set(settings.log_format, settings.log_level):
        try:
            return asyncio.run(serve(settings))
        except cannot_serve as error:
            LOG.error("cannot serve: %s", error)
            return START_FAILED
        except Exception:
            LOG.exception("ended by a fault of ours")
            return FAULT


@contextmanager
def logging_set(form: Format, level: str) -> Iterator[None]:
    """Log to stderr while the block runs; in JSON, what libraries write there becomes objects, too."""
    with stray_output.kept_stderr() as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(FORMATTERS[form]())
        logging.basicConfig(handlers=[handler], force=True)
        # Ours alone: at debug level, libraries print what they read, names in an image's tags among it.
        LOG.setLevel(level.upper())
        warnings.showwarning = log_warning
        with stray_output.logged(STRAY) if form == "json" else nullcontext():
            yield
        handler.close()
        logging.getLogger().removeHandler(handler)


def _wants_json(settings_type: type[ServerSettings]) -> bool:
    """Whether a start whose settings are refused was to log JSON."""
    variable = f"{settings_type.model_config.get('env_prefix', '')}LOG_FORMAT"
    flags = " ".join(sys.argv).replace("=", " ")
    return "--log-format json" in flags or os.environ.get(variable) == "json"


def stop_signal(*, with_stdin: bool = False) -> asyncio.Event:
    """Set by SIGTERM and SIGINT, and by the end of standard input; to be called within the event loop."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if with_stdin:  # a thread, since an event loop cannot watch every kind of file
        threading.Thread(target=_tell_end_of_stdin, args=(loop, stop), name="stdin", daemon=True).start()
    return stop


def _tell_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(0, _PIPE_BYTES):
        pass
    with suppress(RuntimeError):  # the loop is closed: it has stopped
        loop.call_soon_threadsafe(stop.set)


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> asyncio.Task[T] | None:
    """``work``, done; None where a stop was asked for first. Raises what it raised."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        await working
        return working
    working.cancel()
    await wait_until_done(working)
    return None


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let ``work`` go on while the block runs, and end it after."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


@asynccontextmanager
async def metrics(
    registry: CollectorRegistry, listen: str, board: StatusBoard | None = None
) -> AsyncIterator[None]:
    """Serve what ``registry`` holds, and this process's own numbers, while the block runs; "" does not listen."""
    if not listen:
        yield
        return
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    async with exposed(listen, registry, board) as address:
        LOG.info("metrics on http://%s/metrics%s", address, f", status on http://{address}/" if board else "")
        yield


def server_tls(settings: TlsSettings) -> ServerTls | None:
    """The files' contents; None without TLS. Raises InvalidArgument when they cannot be used."""
    if settings.certificate is None or settings.private_key is None:
        return None
    Tls(settings.client_ca, settings.certificate, settings.private_key)  # gRPC would say nothing, or not start
    authority = settings.client_ca.read_bytes() if settings.client_ca else None
    return ServerTls(settings.certificate.read_bytes(), settings.private_key.read_bytes(), authority)
