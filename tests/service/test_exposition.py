"""Metrics and the status page over HTTP, on a run of the service; the page in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from PIL import Image
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from mediround import AsyncClient, Round
from serving.domain import Priority
from serving.telemetry import metrics as telemetry
from serving.telemetry.collector import CacheState, StateCollector
from serving.telemetry.exposition import exposed
from serving.telemetry.status import StatusBoard
from tests.required import browser_program
from tests.service.harness import Stage, picture
from tests.unit.telemetry.test_metrics import sources

OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@pytest.fixture
async def address(stage: Stage, client: AsyncClient) -> AsyncIterator[str]:
    """Where the metrics of a service that has answered five rounds are told."""
    queues = {each.name.lower(): lambda each=each: stage.gate.stats(each) for each in Priority}
    embeddings = CacheState(lambda: stage.embeddings.stats, 1 << 26)
    asked = replace(sources(caches=("uploads",)), queues=queues)
    asked = replace(asked, caches={**asked.caches, "embedding": embeddings})
    stage.registry.register(StateCollector(asked))
    board = StatusBoard(stage.registry, asyncio.get_running_loop().time)
    async with client.open(picture()) as session:
        await session.ask("Segment the liver.")
        [_ async for _ in session.segment([Round("a", refer_to=0), Round("b"), Round("c", refer_to=1)])]
        await session.ask("can you hear me", mode="free")
    async with exposed("127.0.0.1:0", stage.registry, board) as where:
        yield where


@pytest.fixture
async def web(address: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{address}") as session:
        yield session


async def test_metrics_in_the_form_that_is_asked_for(web: aiohttp.ClientSession) -> None:
    async with web.get("/metrics", headers=OPENMETRICS) as answer:
        assert answer.content_type == "application/openmetrics-text"
        text = await answer.text()
    assert text.endswith("# EOF\n")
    units = {family.name: family.unit for family in text_string_to_metric_families(text)}
    assert units["mediround_stage_seconds"] == "seconds"
    async with web.get("/metrics") as answer:
        assert answer.content_type == "text/plain"
        text = await answer.text()
    assert 'mediround_rounds_total{code="OK",index="4"} 1.0' in text
    assert 'mediround_cache_hits_total{cache="embedding"} 2.0' in text
    assert "_created" not in text


async def test_the_status_is_of_the_same_numbers(web: aiohttp.ClientSession) -> None:
    async with web.get("/status.json") as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        state = await answer.json()
    assert state["rounds"]["OK"] * state["window_seconds"] == pytest.approx(5)
    stages = {stage["stage"]: stage for stage in state["stages"]}
    assert set(stages) == set(telemetry.STAGE_SECONDS.labels["stage"])
    for stage in ("language", "decode", "pixels"):
        assert 0 < stages[stage]["p50"] <= stages[stage]["p95"] <= stages[stage]["p99"]
    assert {cache["cache"]: (cache["hits"], cache["misses"]) for cache in state["caches"]}["embedding"] == (2, 1)
    assert state["masks"]["count"] == 4
    assert state["masks"]["without_mask"] == pytest.approx(0.2)


async def test_nothing_else_is_answered(web: aiohttp.ClientSession) -> None:
    for method, path, status in (
        ("GET", "/metrics/", 404),
        ("GET", "/../pyproject.toml", 404),
        ("GET", "/status.html", 404),
        ("POST", "/metrics", 405),
        ("PUT", "/status.json", 405),
        ("GET", "/" + "x" * 20_000, 400),
    ):
        async with web.request(method, path) as answer:
            assert answer.status == status, path
    async with web.get("/metrics", headers={"Accept": "\\" * 4000 + ";;q=,version=x"}) as answer:
        assert answer.status == 200
    async with web.get("/status.json") as answer:
        assert answer.status == 200


async def test_the_page_holds_all_that_it_needs(web: aiohttp.ClientSession) -> None:
    async with web.get("/") as answer:
        policy, page = answer.headers["Content-Security-Policy"], await answer.text()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"\b(src|href|url)\s*[=(]|@import|innerHTML|https?://(?!www\.w3\.org/2000/svg)", page)


async def test_an_address_that_is_taken(address: str, stage: Stage) -> None:
    with pytest.raises(OSError, match="in use"):
        async with exposed(address, stage.registry):
            pass


async def test_without_a_board_there_is_no_page(stage: Stage) -> None:
    async with (
        exposed("127.0.0.1:0", stage.registry) as where,
        aiohttp.ClientSession(f"http://{where}") as web,
    ):
        async with web.get("/") as answer:
            assert answer.status == 404
        async with web.get("/metrics") as answer:
            assert answer.status == 200


async def chromium(*flags: str) -> str:
    """What a headless Chromium prints of a page that has run for three seconds of its time."""
    browser = browser_program("chromium")
    # A container's root has no sandbox to use, and its /dev/shm is small.
    common = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"]
    process = await asyncio.create_subprocess_exec(
        browser,
        *common,
        "--virtual-time-budget=3000",
        *flags,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    return out.decode()


async def test_the_page_in_a_browser(address: str, tmp_path: Path) -> None:
    """Scripts and styles run under the page's own policy, and the numbers are those of the server."""
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    page = await chromium(profile, "--dump-dom", f"http://{address}/")
    assert "made-up 0 (dddddddddddd), server 0" in page
    cells = re.findall(r"<tr>(.*?)</tr>", page)
    rows = [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in cells]
    by_name = {row[0]: row[1:] for row in rows if row}
    assert by_name["language"][0] == "4"  # two live rounds, and a dialogue of two waves
    assert re.fullmatch(r"[\d.]+ m?s", by_name["language"][1])
    assert by_name["embedding"][:3] == ["2", "1", "66.7 %"]
    assert by_name["answers without a mask"] == ["20.0 %"]
    picture_path = tmp_path / "status.png"
    await chromium(profile, f"--screenshot={picture_path}", "--window-size=1180,900", f"http://{address}/")
    with Image.open(picture_path) as shot:
        assert shot.size == (1180, 900)
        assert len(shot.convert("RGB").getcolors(1 << 20) or []) > 50  # not a blank or a broken page


async def test_the_page_says_when_the_server_is_gone(stage: Stage, tmp_path: Path) -> None:
    """The page comes, and no number after it."""

    class Mute(StatusBoard):
        def look(self) -> dict[str, object]:
            raise ValueError("Doe")

    async with exposed("127.0.0.1:0", stage.registry, Mute(stage.registry, lambda: 0.0)) as where:
        page = await chromium(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"http://{where}/")
    assert "does not answer" in page
    assert "Doe" not in page


async def test_json_has_no_number_that_json_has_not(web: aiohttp.ClientSession) -> None:
    async with web.get("/status.json") as answer:
        text = await answer.text()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(text, parse_constant=refuse)
