"""Kept sessions through the client, by a server that ends and by another on the same file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from mediround import AsyncClient, NeedsImage, NotFound, OtherModel, SessionClosed
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.api.server import serving
from serving.stores.kept.records import Stored
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.records import SqliteRecords
from serving.stores.sqlite.sessions import SessionFile
from tests.scripted.sessions import file_sessions
from tests.service.harness import Stage, picture
from tests.service.harness import stage as build_stage
from tests.service.sessions import Caller, asks, given, refused, request_id, square

LIVER, TUMOR = "Segment the liver.", "Segment the tumor in it."


@asynccontextmanager
async def running(file: Path, executor: Executor, *, images: bool, **of: str) -> AsyncIterator[tuple[str, Stage]]:
    """The address of a new server; ``of``: its version, its model."""
    live = MemorySessions(8, 1 << 30, 60.0, lambda: 0.0, lifetime_s=3600.0, parks=True)
    async with file_sessions(SessionFile(file, key=bytes(32)), live, executor, images=images) as sessions:
        stage = build_stage(executor, sessions=sessions, **of)
        async with serving(stage.service) as server:
            yield server.address, stage


@asynccontextmanager
async def server(file: Path, executor: Executor, *, images: bool, **of: str) -> AsyncIterator[AsyncClient]:
    """A client of a new server."""
    async with (
        running(file, executor, images=images, **of) as (address, _),
        AsyncClient(address, timeout=20, retries=0) as client,
    ):
        yield client


@asynccontextmanager
async def caller(
    file: Path, executor: Executor, session_id: str, *, images: bool = False, **of: str
) -> AsyncIterator[tuple[Caller, Stage]]:
    """The bare stub of a new server."""
    async with (
        running(file, executor, images=images, **of) as (address, stage),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Caller(SegmentationServiceStub(channel), session_id), stage


@pytest.mark.parametrize("images", [True, False], ids=["images kept", "no image kept"])
async def test_work_is_taken_up_by_another_server(executor: Executor, tmp_path: Path, images: bool) -> None:
    file = tmp_path / "sessions.db"
    async with server(file, executor, images=images) as client:
        session = await client.open(picture(), keep=True)
        first = await session.ask(LIVER)
        second = await session.ask(TUMOR, refer_to=first)
        await session.ask(TUMOR, refer_to=second)
        await session.undo()
        amended = await session.amend(second, square())
        branch = await session.fork(after=first)
        unkept = await client.open(picture())
        await unkept.ask(LIVER)
        names = session.session_id, branch.session_id, unkept.session_id
    async with server(file, executor, images=images) as client:
        if not images:
            parked = await client.resume(names[0])
            assert len(await parked.history()) == 2
            with pytest.raises(NeedsImage):
                await parked.ask(TUMOR, refer_to=amended)
        again = await client.resume(names[0], None if images else picture())
        past = await again.history()
        assert [each.round_id for each in past] == [first.round_id, second.round_id]
        third = await again.ask(TUMOR, refer_to=amended)
        assert third.index == 2
        fresh = await client.open(picture())
        same = await fresh.ask(TUMOR, refer_to=square())
        assert third.reference is not None
        assert same.reference is not None
        assert third.reference.crop == same.reference.crop
        with pytest.raises(NotFound):
            await client.resume(names[2])
        await again.close()
    async with server(file, executor, images=images) as client:
        with pytest.raises(SessionClosed):
            await client.resume(names[0])


async def test_a_round_keeps_the_name_of_what_computed_it(executor: Executor, tmp_path: Path) -> None:
    file, same, name = tmp_path / "sessions.db", request_id(), "a-session-of-two-versions"
    async with caller(file, executor, name, version="1.0") as (asked, _):
        await asked.open(keep=True)
        first = await asked.ask(asks(), same)
    async with caller(file, executor, name, version="2.0") as (asked, stage):
        await asked.open(resume=True)
        again, [told] = await asked.ask(asks(), same), await asked.rounds()
        second = await asked.ask(asks())
        assert len(stage.language.script.asked("complete")) == 1
    assert again.engine_digest == told.engine_digest == first.engine_digest != ""
    assert second.engine_digest not in {"", first.engine_digest}


async def test_what_was_answered_needs_no_image_to_be_told_again(executor: Executor, tmp_path: Path) -> None:
    file, name = tmp_path / "sessions.db", "a-session-whose-answers-are-lost"
    chain = [asks("Segment the liver."), asks("Segment the tumor.", 0)]
    ids = {method: request_id() for method in ("one", "all", "amend", "undo")}
    async with caller(file, executor, name) as (asked, _):
        await asked.open(keep=True)
        one = await asked.ask(asks(), ids["one"])
        both = await asked.dialogue(chain, ids["all"])
        amend = {"round_id": one.round_id, "given_mask": given(square())}
        await asked.call("AmendRound", ids["amend"], **amend)
        await asked.call("RewindSession", ids["undo"], rounds=1)
    async with caller(file, executor, name) as (asked, stage):
        again = await asked.ask(asks(), ids["one"])
        assert (again.round_id, again.mask, again.amended) == (one.round_id, one.mask, True)
        assert [r.round_id for r in await asked.dialogue(chain, ids["all"])] == [r.round_id for r in both]
        assert (await asked.call("AmendRound", ids["amend"], **amend)).round.amended
        assert (await asked.call("RewindSession", ids["undo"], rounds=1)).rounds == 1
        assert (await refused(asked.ask(asks("Another."), ids["one"]))).reason == "IDEMPOTENCY_MISMATCH"
        assert (await refused(asked.ask(asks()))).reason == "NEEDS_IMAGE"
        assert stage.language.script.asked("complete") == []


async def test_nobody_sends_an_image_to_a_session_of_another_model(executor: Executor, tmp_path: Path) -> None:
    file = tmp_path / "sessions.db"
    async with server(file, executor, images=False) as client:
        session = await client.open(picture(), keep=True)
        first = await session.ask(LIVER)
    async with server(file, executor, images=False, model_digest="b" * 64) as client:
        for image in (None, picture()):
            read = await client.resume(session.session_id, image)
            assert [each.round_id for each in await read.history()] == [first.round_id]
            assert (await read.mask(first) == first.mask).all()
            for change in (read.ask(TUMOR, refer_to=first), read.undo(), read.amend(first, square())):
                with pytest.raises(OtherModel):
                    await change
        with pytest.raises(OtherModel):
            await read.fork()


async def test_going_on_takes_one_read_one_encode_and_one_pass(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, name, reads = tmp_path / "sessions.db", "a-session-of-several-rounds", []
    get = SqliteRecords.get

    async def counted(records: SqliteRecords, session_id: str, caller: str, *, image: bool) -> Stored:
        reads.append(session_id)
        return await get(records, session_id, caller, image=image)

    monkeypatch.setattr(SqliteRecords, "get", counted)
    async with caller(file, executor, name, images=True) as (asked, _):
        await asked.open(keep=True)
        await asked.dialogue([asks(), *(asks("Segment it.", number) for number in range(4))])
        reads.clear()
    async with caller(file, executor, name, images=True) as (asked, stage):
        await asked.ask(asks("Segment it.", 4))
        language, vision = stage.language.script, stage.vision.script
        assert (reads, len(language.asked("complete")), len(vision.asked("encode"))) == ([name], 1, 1)
