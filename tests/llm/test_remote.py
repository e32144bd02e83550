"""Several language servers: which one is asked, and what happens when it goes."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from loadtest.server_process import free_port
from mediround import AsyncClient
from mediround import Unavailable as NotReachable
from serving.api.server import serving as served
from serving.bundle import Bundle, BundleError
from serving.errors import Unavailable
from serving.llm.messages import pictures
from serving.llm.remote import RemoteLanguage, rank
from serving.ports import Prompt
from serving.runtime.record import RuntimeRecord
from tests.llm.harness import BUNDLE, RecordingService, serving
from tests.scripted.language import ScriptedLanguage
from tests.scripted.prompts import Draft, draft
from tests.service.certificates import Authority
from tests.service.harness import picture
from tests.service.harness import stage as build_stage

OTHER = replace(BUNDLE, digest="e" * 64)


def rounds(number: int, dialogue: str = "dialogue") -> Prompt:
    """A dialogue of ``number`` rounds, each of which refers to a new mask."""
    start: Draft = draft(BUNDLE.manifest).say(5).read().close()
    for seed in range(1, number):
        start = start.refer(seed).say(6).read().close()
    return start.prompt(dialogue)


@dataclass(frozen=True, slots=True)
class Seat:
    """A language server of a test, and the stack that ends it."""

    address: str
    engine: ScriptedLanguage
    service: RecordingService
    life: AsyncExitStack

    async def end(self) -> None:
        await self.life.aclose()


async def seat(address: str = "127.0.0.1:0", picture_bytes: int = 1 << 24, version: str = "1") -> Seat:
    engine = ScriptedLanguage(BUNDLE.manifest, version=version)
    service = RecordingService(engine, picture_bytes=picture_bytes)
    life = AsyncExitStack()
    server = await life.enter_async_context(serving(service, address))
    return Seat(server.address, engine, service, life)


@pytest.fixture
async def seats() -> AsyncIterator[list[Seat]]:
    taken = [await seat() for _ in range(3)]
    yield taken
    for each in taken:
        await each.end()


@pytest.fixture
async def remote(seats: list[Seat]) -> AsyncIterator[RemoteLanguage]:
    engine = RemoteLanguage([each.address for each in seats], BUNDLE, max_references=8)
    yield engine
    await engine.close()


def answered(seats: list[Seat]) -> list[int]:
    return [len(each.engine.script.finished) for each in seats]


async def test_a_dialogue_stays_with_one_server(seats: list[Seat], remote: RemoteLanguage) -> None:
    for number in range(1, 6):
        await remote.complete(rounds(number))
    assert sorted(answered(seats)) == [0, 0, 5]


async def test_whatever_proxy_the_host_has(seats: list[Seat], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    engine = RemoteLanguage([seats[0].address], BUNDLE, max_references=8)
    try:
        async with asyncio.timeout(20):
            await engine.complete(rounds(1))
    finally:
        await engine.close()
    assert answered(seats) == [1, 0, 0]


async def test_dialogues_spread_and_a_server_that_leaves_moves_only_its_own() -> None:
    addresses = [f"10.0.0.{i}:1" for i in range(4)]
    dialogues = [f"{i}" for i in range(1000)]

    def first(among: list[str]) -> dict[str, str]:
        return {d: min(among, key=lambda address: rank(address, "tenant", d)) for d in dialogues}

    before, after = first(addresses), first(addresses[:3])
    assert min(Counter(before.values()).values()) > 200
    assert all(after[d] == before[d] for d in dialogues if before[d] != addresses[3])
    assert len(Counter(after[d] for d in dialogues if before[d] == addresses[3])) == 3


async def test_a_server_that_left_before_the_call(seats: list[Seat], remote: RemoteLanguage) -> None:
    """The same call moves on: its prompt reached no engine."""
    await remote.complete(rounds(1))
    home = seats[answered(seats).index(1)]
    await home.end()
    assert (await remote.complete(rounds(2))).features
    assert sorted(answered(seats)) == [0, 1, 1]
    assert sum(answered(seats)) - answered(seats)[seats.index(home)] == 1


async def test_a_server_lost_within_an_engine(seats: list[Seat], remote: RemoteLanguage) -> None:
    """The call is not repeated from here, and the next one goes to another server."""
    await remote.complete(rounds(1))
    home = seats[answered(seats).index(1)]
    home.engine.script.hold("complete")
    asked = asyncio.create_task(remote.complete(rounds(2)))
    await home.engine.script.reached("complete", 2)
    await home.end()
    with pytest.raises(Unavailable, match="sessions are unharmed"):
        await asked
    assert sum(len(each.engine.script.calls) for each in seats) == 2
    assert (await remote.complete(rounds(2))).features


async def test_a_server_that_says_not_serving_is_not_asked(seats: list[Seat]) -> None:
    quiet, other = seats[:2]
    async with serving(quiet.service, drain_seconds=0) as server:
        await server.not_ready()
        remote = RemoteLanguage([server.address, other.address], BUNDLE, max_references=8)
        for number in range(8):
            await remote.complete(rounds(1, f"{number}"))
        assert quiet.service.requests == []
        await remote.close()


async def test_none_is_left_and_one_comes_back() -> None:
    only = await seat()
    remote = RemoteLanguage([only.address], BUNDLE, max_references=8)
    seen = []

    async def watch() -> None:
        async for available in remote.availability():
            seen.append(available)  # noqa: PERF401  # it ends by cancellation

    watching = asyncio.create_task(watch())
    await remote.complete(rounds(1))
    await only.end()
    with pytest.raises(Unavailable) as gone:
        await remote.complete(rounds(2))
    assert gone.value.retry_after > 0
    again = await seat(only.address)
    async with asyncio.timeout(10):
        await remote.reached()
    assert (await remote.complete(rounds(2))).features
    assert seen == [False, True, False, True]
    watching.cancel()
    await remote.close()
    await again.end()


async def test_a_server_of_another_version_is_told_by_what_it_answers(
    seats: list[Seat], remote: RemoteLanguage
) -> None:
    """Before anyone has looked: each answer says what computed it."""
    first = await remote.complete(rounds(1))
    home = seats[answered(seats).index(1)]
    home.engine.runtime = RuntimeRecord("scripted", "2")
    second = await remote.complete(rounds(2))
    assert (first.runtime, second.runtime) == (RuntimeRecord("scripted", "1"), RuntimeRecord("scripted", "2"))
    assert set(remote.runtimes) == {first.runtime, second.runtime}


async def test_a_version_that_comes_back_changes_the_record() -> None:
    """Each result names what computed it, and the description what computes now."""
    only = await seat()
    with ThreadPoolExecutor(2) as executor:
        stage = build_stage(executor)
        remote = RemoteLanguage([only.address], Bundle(Path("made-up"), stage.manifest, BUNDLE.digest), 6)
        stage.service._orchestrator = replace(stage.service._orchestrator, language=remote)
        async with served(stage.service) as server, AsyncClient(server.address, timeout=20) as client:
            await remote.reached()
            session = await client.open(picture())
            before = await session.ask("Segment the liver.")
            [old] = (await client.describe()).engine_records
            await only.end()
            with pytest.raises(NotReachable):
                await session.ask("Segment the kidney.", timeout=2)
            assert (await client.describe()).engine_records == ()  # none serves
            again = await seat(only.address, version="2")
            async with asyncio.timeout(10):
                await remote.reached()
            [new] = (await client.describe()).engine_records
            after = await session.ask("Segment the kidney.")
        await remote.close()
        await again.end()
    assert (before.engine_digest, after.engine_digest) == (old.digest, new.digest)
    assert (old.language.version, new.language.version) == ("1", "2")
    assert old.digest != new.digest


async def test_an_address_where_nobody_listens() -> None:
    remote = RemoteLanguage([f"127.0.0.1:{free_port()}"], BUNDLE, max_references=8)
    with pytest.raises(Unavailable):
        await remote.complete(rounds(1))
    assert not remote.available
    await remote.close()


async def test_another_bundle_is_refused_and_named(seats: list[Seat]) -> None:
    remote = RemoteLanguage([seats[0].address], OTHER, max_references=8)
    with pytest.raises(BundleError, match=r"serves bundle made-up 0 \(d+\), --bundle is made-up 0 \(e+\)"):
        await remote.reached()
    with pytest.raises(Unavailable):
        await remote.complete(rounds(1))
    assert seats[0].service.requests == []
    await remote.close()


async def test_a_server_that_came_back_with_another_bundle(seats: list[Seat], remote: RemoteLanguage) -> None:
    """Even before anyone looked: the prompt itself says which model it was made for."""
    await remote.complete(rounds(1))
    home = seats[answered(seats).index(1)]
    home.service._bundle = OTHER
    assert (await remote.complete(rounds(2))).features
    assert len(home.engine.script.calls) == 1
    assert sorted(answered(seats)) == [0, 1, 1]


async def test_too_small_a_server_is_refused_and_told_why(seats: list[Seat]) -> None:
    remote = RemoteLanguage([seats[0].address], BUNDLE, max_references=9)
    with pytest.raises(BundleError, match=r"--limits\.max-references is 8, --limits\.max-rounds here is 9"):
        await remote.reached()
    await remote.close()


async def test_one_that_fits_is_enough(seats: list[Seat]) -> None:
    engine = ScriptedLanguage(BUNDLE.manifest)
    async with serving(RecordingService(engine, OTHER)) as misfit:
        remote = RemoteLanguage([misfit.address, seats[0].address], BUNDLE, max_references=8)
        for number in range(8):
            await remote.complete(rounds(1, f"{number}"))
        await remote.close()
    assert engine.script.calls == []


async def test_pixels_cross_the_wire_once(seats: list[Seat]) -> None:
    home = seats[0]
    remote = RemoteLanguage([home.address], BUNDLE, max_references=8)
    for number in range(1, 6):
        await remote.complete(rounds(number))
    shown = [(each.image, *(r.crop for r in each.references)) for each in home.service.requests]
    sent = [sum(bool(picture.rgb) for picture in each) for each in shown]
    assert sent == [1, 1, 1, 1, 1]
    await remote.close()


async def test_pixels_that_were_given_up_are_sent_again() -> None:
    small = await seat(picture_bytes=1)
    remote = RemoteLanguage([small.address], BUNDLE, max_references=8)
    first = await remote.complete(rounds(3))
    second = await remote.complete(rounds(3, "again"))
    assert [f.vector.tolist() for f in first.features] == [f.vector.tolist() for f in second.features]
    pixels = [bool(each.image.rgb) for each in small.service.requests]
    assert pixels == [True, False, True]
    assert len(small.engine.script.finished) == 2
    assert len(pictures(rounds(3))) == 3
    await remote.close()
    await small.end()


async def test_a_server_that_restarted_is_sent_everything_again() -> None:
    only = await seat()
    remote = RemoteLanguage([only.address], BUNDLE, max_references=8)
    await remote.complete(rounds(2))
    await only.end()
    again = await seat(only.address)
    async with asyncio.timeout(10):
        while True:
            try:
                completion = await remote.complete(rounds(2))
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    assert completion.features
    await remote.close()
    await again.end()


async def test_calls_in_flight_end_when_it_closes(seats: list[Seat]) -> None:
    remote = RemoteLanguage([seats[0].address], BUNDLE, max_references=8)
    seats[0].engine.script.hold("complete")
    asked = asyncio.create_task(remote.complete(rounds(1)))
    await seats[0].engine.script.reached("complete")
    await remote.close()
    with pytest.raises(Unavailable, match="closed"):
        await asked


async def test_tls_both_ways(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make certificates with")
    ours, theirs = Authority.make(tmp_path / "ours"), Authority.make(tmp_path / "theirs")
    engine = ScriptedLanguage(BUNDLE.manifest)
    known = ours.client("/CN=orchestrator", "DNS:orchestrator.example")
    stranger = theirs.client("/CN=orchestrator", "DNS:orchestrator.example", server_ca=ours)
    async with serving(RecordingService(engine), tls=ours.server(client_ca=ours)) as server:
        for credentials, welcome in ((known.credentials(), True), (stranger.credentials(), False), (None, False)):
            remote = RemoteLanguage([server.address], BUNDLE, max_references=8, credentials=credentials)
            if welcome:
                assert (await remote.complete(rounds(2))).features
            else:
                with pytest.raises(Unavailable):
                    await remote.complete(rounds(2))
            await remote.close()
    assert len(engine.script.calls) == 1
