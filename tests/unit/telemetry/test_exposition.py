"""A metric has one name, in whichever form it is asked for."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from serving.telemetry.exposition import exposed

PROMETHEUS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


@pytest.mark.parametrize(("accept", "form"), [(PROMETHEUS, "application/openmetrics-text"), ("", "text/plain")])
async def test_a_name_with_a_colon(accept: str, form: str) -> None:
    registry = CollectorRegistry()
    Gauge("vllm:num_requests_running", "Theirs.", registry=registry)

    def fetched(address: str) -> tuple[str, str]:
        request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # loopback
            return answer.headers["Content-Type"], answer.read().decode()

    async with exposed("127.0.0.1:0", registry) as address:
        content_type, text = await asyncio.to_thread(fetched, address)
    assert content_type.startswith(form)
    assert "\nvllm:num_requests_running 0.0\n" in text
