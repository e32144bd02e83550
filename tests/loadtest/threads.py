"""Servers in threads of their own, for a program that is called as a whole; and what it is called with."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from serving.api.server import serving
from tests.loadtest.scripted import ScriptedServer

SCENARIO = """
name = "quick"
[arrivals]
process = "constant"
rate = 20.0
duration = 1.0
[dialogues]
rounds = [1, 2]
think = 0.1
[images]
size = [16, 16]
[objective]
latency = [{ rounds = "all", share = 0.9, within = 0.5 }]
[generator]
late = 5.0
"""
EXPOSED = """\
# TYPE mediround_cache_hits counter
mediround_cache_hits_total{cache="<b>"} 3.0
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1048576.0
# EOF
"""


def scripted(**how: float) -> AbstractContextManager[str]:
    """The address of a scripted server in a thread of its own."""
    return beside(ScriptedServer(**how))


@contextmanager
def beside(server: ScriptedServer) -> Iterator[str]:
    started, stop, address = threading.Event(), threading.Event(), []

    async def serve() -> None:
        async with serving(server, drain_seconds=0.2) as running:
            address.append(running.address)
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    try:
        yield address[0]
    finally:
        stop.set()
        thread.join()


@contextmanager
def exposing(text: str | Callable[[], str]) -> Iterator[str]:
    """The address of an HTTP server that answers with ``text``, or what it returns at the time."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0")
            self.end_headers()
            self.wfile.write((text if isinstance(text, str) else text()).encode())

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
