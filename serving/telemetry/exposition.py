"""Metrics over HTTP, on a port of their own: ``/metrics`` for Prometheus, ``/`` and ``/status.json`` for people.

Knows HTTP, and that numbers are read on the event loop, where they agree. Does not know what is measured. Says
nothing about images, dialogues or callers; any client that can connect learns how busy the server is.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from aiohttp import web
from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from serving.telemetry.status import StatusBoard

_PAGE = "status.html"
_IDLE_SECONDS = 75.0
"""Longer than the usual scrape interval."""
_MAX_REQUEST_BYTES = 4096


@asynccontextmanager
async def exposed(
    listen: str, registry: CollectorRegistry, board: StatusBoard | None = None
) -> AsyncIterator[str]:
    """Answer on ``host:port`` while the block runs; yields the address, port 0 being replaced.

    Raises:
        OSError: the address cannot be had.
    """
    # Without the series of each counter's creation time: unused, and it would double what is sent.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    app = web.Application(client_max_size=_MAX_REQUEST_BYTES)
    app.router.add_get("/metrics", _Metrics(registry).answer)
    if board:
        status = _Status(board)
        app.router.add_get("/", status.page)
        app.router.add_get("/status.json", status.json)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=_IDLE_SECONDS)
    await runner.setup()
    try:
        host, _, port = listen.rpartition(":")
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class _Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def answer(self, request: web.Request) -> web.Response:
        """In the form that the scraper asks for: OpenMetrics, or Prometheus's text."""
        if "application/openmetrics-text" in request.headers.get("Accept", ""):
            # The library's own choice would write vllm:x as vllm_x, and only here: another name in each form.
            body = openmetrics.generate_latest(self._registry, openmetrics.ALLOWUTF8)  # type: ignore[no-untyped-call]  # theirs
            return web.Response(body=body, headers={"Content-Type": openmetrics.CONTENT_TYPE_LATEST})
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        )


class _Status:
    def __init__(self, board: StatusBoard) -> None:
        self._board = board
        self._page = files("serving.telemetry").joinpath(_PAGE).read_text(encoding="utf-8")
        self._policy = (
            "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            f"script-src {_allowed(self._page, 'script')}; style-src {_allowed(self._page, 'style')}"
        )

    async def page(self, _: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": self._policy, "X-Content-Type-Options": "nosniff"}
        return web.Response(text=self._page, content_type="text/html", headers=headers)

    async def json(self, _: web.Request) -> web.Response:
        return web.json_response(self._board.look(), headers={"Cache-Control": "no-store"})


def _allowed(page: str, element: str) -> str:
    """The page's own element, by its hash, and nothing else."""
    match = re.search(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digest = hashlib.sha256(match[1].encode() if match else b"").digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
