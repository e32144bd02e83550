"""Sessions that are lost, and opened anew by the client: what is asked next is answered as if nothing had been."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mediround import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OtherModel,
    PastRound,
    Round,
    RoundResult,
    SessionClosed,
    SessionExpired,
    StaleReference,
    _replay,
)
from mediround.testing import DESCRIPTION, Answer, Script, serve
from serving.api.server import Server
from tests.service.either import Either, Make
from tests.service.harness import Stage, picture
from tests.service.sessions import Parking, square

LIVER, VESSEL, HEAR = "Segment the liver.", "Segment the vessel in it.", "Can you hear me?"


def lose(stage: Stage, session: Any) -> None:
    """As a server does that is started again, but for what it caches."""
    stage.sessions.drop(session.session_id, "anonymous")


def passes(stage: Stage) -> int:
    return len(stage.language.script.asked("complete"))


def essence(result: RoundResult) -> tuple[Any, ...]:
    """What must be equal, whether or not the session was lost."""
    of = result.reference
    used = None if of is None else (of.mask_digest, of.crop, of.box, of.origin)
    told = (result.index, result.answer, result.mask_digest, result.score, result.seg_probability)
    return (*told, result.corrected, result.cache.prompt_tokens, used)


async def work(either: Either, session: Any) -> tuple[list[RoundResult], PastRound]:
    """A round of every kind, and one of them amended after it was used."""
    first = await either.ask(session, LIVER)
    second = await either.ask(session, VESSEL, refer_to=first)
    spoken = await either.ask(session, HEAR, mode="free")
    assert (spoken.mask, second.area > 0) == (None, True)
    given = await either.ask(session, VESSEL, refer_to=square(2, 2), origin="slice 41")
    amended = await either.of(session, "amend", first, square(), origin="Dr. A")
    about = await either.ask(session, VESSEL, refer_to=amended)
    assert about.reference.source == "amended"
    return [first, second, spoken, given, about], amended


@pytest.fixture
async def either(make: Make, server: Server) -> Either:
    return make(server.address, retries=0)


@pytest.mark.parametrize("request_bytes", [_replay.MAX_REQUEST_BYTES, 1])
async def test_what_is_asked_next_is_answered_as_if_nothing_had_been(
    make: Make, stage: Stage, server: Server, request_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one request, and where each round is one of its own."""
    monkeypatch.setattr(_replay, "MAX_REQUEST_BYTES", request_bytes)
    either = make(server.address, retries=0)
    one, other = [await either.open(picture(), replay=True) for _ in range(2)]
    (first, second, _, given, about), amended = await work(either, one)
    (_, theirs, *_), their_amended = await work(either, other)
    before, encodes, id_before = passes(stage), len(stage.vision.script.asked("encode")), one.session_id
    lose(stage, one)
    with pytest.raises(InvalidArgument, match="at most 6 rounds"):
        await either.segment(one, [Round(LIVER), Round(LIVER)])
    assert passes(stage) - before == 1, "the round without a mask alone is asked again"
    assert one.session_id != id_before
    for refer_to, of in ((second, theirs), (amended, their_amended)):
        assert essence(await either.ask(one, VESSEL, refer_to=refer_to)) == essence(
            await either.ask(other, VESSEL, refer_to=of)
        )
        assert [await either.of(each, "undo") for each in (one, other)] == [5, 5]
    with pytest.raises(StaleReference):
        await either.ask(one, VESSEL, refer_to=first)
    assert len(stage.vision.script.asked("encode")) == encodes
    past = await either.of(one, "history")
    assert [each.seeded for each in past] == [True, True, False, True, True]
    assert [each.mask_digest for each in past] == [each.mask_digest for each in await either.of(other, "history")]
    assert [past[0].amended, past[0].origin, past[0].original_digest] == [True, "Dr. A", first.mask_digest]
    used = [each.reference and each.reference.mask_digest for each in past]
    assert used == [None, first.mask_digest, None, given.reference.mask_digest, amended.mask_digest]
    np.testing.assert_array_equal(await either.of(one, "mask", about), about.mask)
    assert (await either.of(one, "amend", amended, None)).mask_digest == first.mask_digest
    lose(stage, one)
    assert (await either.ask(one, VESSEL, refer_to=first)).index == 5, "again, and by the oldest name"
    await either.close()
    assert stage.sessions.count == 0


@pytest.mark.parametrize(
    "call", ["ask", "watch", "segment", "seed", "history", "mask", "undo", "amend", "fork", "keep_alive"]
)
async def test_any_call_finds_it(either: Either, stage: Stage, call: str) -> None:
    session = await either.open(picture(), replay=True)
    first = await either.ask(session, LIVER)
    lose(stage, session)
    match call:
        case "ask":
            assert (await either.ask(session, VESSEL, refer_to=first)).index == 1
        case "watch":
            told: list[object] = []
            assert (await either.ask(session, VESSEL, refer_to=first, progress=told.append)).index == 1
            assert told
        case "segment":
            rounds = [Round(VESSEL, refer_to=first), Round(VESSEL, refer_to=1)]
            assert [each.index for each in await either.segment(session, rounds)] == [1, 2]
        case "seed":
            assert (await either.of(session, "seed", LIVER, "It is [SEG].", square())).index == 1
        case "history":
            assert [each.mask_digest for each in await either.of(session, "history")] == [first.mask_digest]
        case "mask":
            np.testing.assert_array_equal(await either.of(session, "mask", first), first.mask)
        case "undo":
            assert await either.of(session, "undo") == 0
        case "amend":
            assert (await either.of(session, "amend", first, square())).amended
        case "fork":
            branch = await either.of(session, "fork", first)
            lose(stage, branch)
            assert (await either.ask(branch, VESSEL, refer_to=0)).index == 1, "a branch is replayed, too"
        case _:
            assert await either.of(session, "keep_alive") > 0
    assert passes(stage) == {"segment": 3, "ask": 2, "watch": 2, "fork": 2}.get(call, 1)


async def test_a_dialogue_goes_on_where_the_session_was_lost(make: Make, stage: Stage, server: Server) -> None:
    either = make(server.address)
    session, other = await either.open(picture(), replay=True), await either.open(picture())
    chain = [Round(LIVER), *(Round(VESSEL, refer_to=number) for number in range(3))]
    expected = await either.segment(other, chain)
    commit, wave = stage.sessions.commit, iter((False, True, False, False, False))

    async def lost(record: Any, write: Any = None) -> None:
        await commit(record, write)
        if next(wave):
            stage.sessions.drop(record.session_id, record.caller)

    stage.sessions.commit = lost  # type: ignore[method-assign]
    results = await either.segment(session, chain)
    assert [essence(each) for each in results] == [essence(each) for each in expected]


async def test_calls_at_once_open_it_once(make: Make, stage: Stage, server: Server) -> None:
    either = make(server.address)
    session = await either.open(picture(), replay=True)
    first = await either.ask(session, LIVER)
    lose(stage, session)
    results = await asyncio.gather(*(either.ask(session, VESSEL, refer_to=first) for _ in range(4)))
    assert sorted(each.index for each in results) == [1, 2, 3, 4]
    assert stage.sessions.count == 1


async def test_one_that_is_parked_gets_its_image_by_itself(either: Either, stage: Stage) -> None:
    session = await either.open(picture(), keep=True, replay=True)
    first = await either.ask(session, LIVER)
    stage.sessions.__class__ = Parking
    stage.sessions.parked = {session.session_id}
    again = await either.ask(session, VESSEL, refer_to=first)
    assert (again.index, again.session_id) == (1, first.session_id)
    assert [each.seeded for each in await either.of(session, "history")] == [False, False]


async def test_one_that_others_began_is_read_first(make: Make, stage: Stage, server: Server) -> None:
    either, another = make(server.address, retries=0), make(server.address, retries=0)
    one, other = [await either.open(picture(), keep=True) for _ in range(2)]
    (first, *_, about), amended = await work(either, one)
    _, their_amended = await work(either, other)
    taken = await another.call("resume", one.session_id, image=picture(), replay=True)
    lose(stage, taken)
    expected = await either.ask(other, VESSEL, refer_to=their_amended)
    assert essence(await another.ask(taken, VESSEL, refer_to=amended)) == essence(expected)
    past = await another.of(taken, "history")
    assert [past[0].original_digest, past[4].mask_digest] == [first.mask_digest, about.mask_digest]
    assert stage.sessions.count == 2, "one is to be kept still"
    with pytest.raises(InvalidArgument, match="must be left out without an image"):
        await another.call("resume", one.session_id, replay=True)


# ---- what is not replayed


async def test_what_cannot_be_replayed_says_why(
    make: Make, stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    either, another = make(server.address, retries=0), make(server.address)
    plain = await either.open(picture())
    sessions = [await either.open(picture(), replay=True) for _ in range(4)]
    others, large, closed, changed = sessions
    for each in (plain, *sessions):
        await either.ask(each, LIVER)
    elsewhere = await another.call("resume", others.session_id)
    await another.ask(elsewhere, LIVER)
    await either.ask(others, LIVER)
    with monkeypatch.context() as patch:
        patch.setattr(_replay, "MAX_BYTES", 1000)
        await either.ask(large, LIVER)
        with pytest.raises(InvalidArgument, match="replay: must be left out"):
            await either.open(picture(), replay=True)
    await either.close(closed)
    spoken = await either.ask(changed, HEAR, mode="free")
    for each in (plain, others, large, changed):
        lose(stage, each)
    for each, kind, words in (
        (plain, NotFound, "open a new one$"),
        (others, NotFound, "it was not replayed: it had rounds that were not asked here"),
        (large, NotFound, "it was not replayed: its image and masks take more than the 128 MiB"),
        (closed, SessionClosed, "is closed"),
    ):
        with pytest.raises(kind, match=words):
            await either.ask(each, LIVER)
    monkeypatch.setattr(stage.language, "_answer", lambda _: ((80, 90), False))
    with pytest.raises(FailedPrecondition, match="not replayed: round 1 is answered in another way now"):
        await either.ask(changed, LIVER)
    assert spoken.mask is None
    assert stage.sessions.count == 0, "what was opened for it is closed"


async def test_a_mask_that_the_server_refuses_is_not_sent_at_every_call(make: Make) -> None:
    limits = replace(DESCRIPTION.limits, max_given_mask_bytes=1)
    with serve(Script(description=replace(DESCRIPTION, limits=limits))) as server:
        either = make(server.address, retries=0)
        session, large = [await either.open(picture(), replay=True) for _ in range(2)]
        for each in (session, large):
            await either.ask(each, LIVER)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_replay, "MAX_MASK_BYTES", 1)
            await either.ask(large, LIVER)
        for each in (session, large):
            server.lose(each.session_id)
        for _ in range(2):
            with pytest.raises(NotFound, match=r"not replayed: .*seed_mask"):
                await either.ask(session, LIVER)
        with pytest.raises(NotFound, match="not replayed: one of its masks takes more than 7 MiB"):
            await either.ask(large, LIVER)
        assert server.open_sessions == 0
        assert len(server.asked) == 3


async def test_another_model_is_named(make: Make) -> None:
    served = [Answer(), Answer()]
    with serve({LIVER: served}) as server:
        either = make(server.address, retries=0)
        session = await either.open(picture(), replay=True)
        await either.ask(session, LIVER)
        server.lose(session.session_id)
        service = server._service
        service._served = replace(service._served, model_digest="b" * 64)
        with pytest.raises(OtherModel, match=f"another model now, {'b' * 64}"):
            await either.ask(session, LIVER)
        assert server.open_sessions == 0
        service._served = replace(service._served, model_digest="5c" * 32)
        assert (await either.ask(session, LIVER)).index == 1, "and when it is back, it goes on"
        server.expire(session.session_id)
        assert [each.seeded for each in await either.of(session, "history")] == [True, True]


async def test_a_session_that_is_lost_again_at_once_is_given_up(make: Make) -> None:
    script = {LIVER: [Answer(), SessionExpired("gone"), SessionExpired("gone again"), Answer()]}
    with serve(script) as server:
        either = make(server.address, retries=0)
        session = await either.open(picture(), replay=True)
        await either.ask(session, LIVER)
        with pytest.raises(SessionExpired, match="gone again"):
            await either.ask(session, LIVER)
        assert (await either.ask(session, LIVER)).index == 1
