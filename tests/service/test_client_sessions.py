"""What both clients make of a session beside its rounds: read, undone, branched, amended, kept, taken up again.

And rounds whose answer was lost on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest

from mediround import (
    FailedPrecondition,
    InvalidArgument,
    MovedOn,
    NeedsImage,
    NotFound,
    Progress,
    Round,
    SessionClosed,
    SessionExpired,
    StaleReference,
    masks,
)
from serving.api import openings, service, sessions
from serving.api.server import Server
from tests.service.either import Make
from tests.service.harness import Stage, picture
from tests.service.sessions import Parking, square

QUESTION, MASK = "Segment the liver.", square()


# ---- names


async def test_every_call_of_a_session_names_it(
    make: Make, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = []

    def check(metadata: object, session_id: str) -> None:
        named.append((session_id, dict(metadata or ()).get("x-mediround-session")))

    for module in (sessions, openings):
        monkeypatch.setattr(module, "check_session", check)
    either = make(server.address)
    session = await either.open(picture())
    first = await either.ask(session, QUESTION)
    await either.segment(session, [Round(QUESTION)])
    await either.of(session, "keep_alive")
    await either.of(session, "amend", first, MASK)
    await either.of(session, "mask", first)
    branch = await either.of(session, "fork", 0)
    await either.of(session, "undo")
    await either.of(session, "close")
    await either.close()  # closes the branch
    assert len(named) >= 10
    assert {one == other for one, other in named} == {True}
    assert {one for one, _ in named} == {session.session_id, branch.session_id}
    assert len(session.session_id) == 22


async def test_a_reference_to_what_is_no_longer_so_is_refused(make: Make, server: Server) -> None:
    either = make(server.address)
    session = await either.open(picture())
    first, second = await either.ask(session, QUESTION), await either.ask(session, QUESTION)
    assert first.round_id != second.round_id
    assert first.mask_digest == masks.digest(first.mask).hex()
    assert await either.of(session, "undo") == 1
    for refer_to in (second, first):
        if refer_to is first:
            await either.of(session, "amend", first, MASK)
        with pytest.raises(StaleReference) as caught:
            await either.ask(session, QUESTION, refer_to=refer_to)
        assert caught.value.reason == "STALE"
    other = await either.open(picture())
    with pytest.raises(InvalidArgument, match="or pass its mask"):
        await either.ask(other, QUESTION, refer_to=first)


# ---- read, undone, amended, branched


async def test_a_session_is_read_and_corrected(make: Make, server: Server) -> None:
    either = make(server.address)
    session = await either.open(picture())
    first = await either.ask(session, QUESTION)
    used = await either.ask(session, "Segment the tumor.", refer_to=first)
    amended = await either.of(session, "amend", first, MASK.view(np.uint8) * 255, origin="by hand")
    assert (amended.amended, amended.area, amended.index) == (True, np.count_nonzero(MASK), 0)
    assert (amended.mask_digest, amended.original_digest) == (masks.digest(MASK).hex(), first.mask_digest)
    np.testing.assert_array_equal(await either.of(session, "mask", first), MASK)
    np.testing.assert_array_equal(await either.of(session, "mask", first.round_id, original=True), first.mask)
    about = await either.ask(session, "Segment it.", refer_to=amended)
    assert (about.reference.source, about.reference.origin) == ("amended", "by hand")
    assert about.reference.mask_digest == amended.mask_digest
    history = await either.of(session, "history")
    assert [each.round_id for each in history] == [first.round_id, used.round_id, about.round_id]
    assert [each.question for each in history] == [QUESTION, "Segment the tumor.", "Segment it."]
    assert history[0] == amended
    assert history[1].reference == used.reference
    assert history[1].reference.mask_digest == first.mask_digest
    back = await either.of(session, "amend", history[0], None)
    assert (back.amended, back.mask_digest) == (False, first.mask_digest)
    assert (await either.ask(session, "Again.", refer_to=first)).reference.source == "round"
    with pytest.raises(InvalidArgument, match="of this session"):
        await either.of(await either.open(picture()), "amend", first, MASK)


async def test_an_undo_that_others_have_overtaken_does_nothing(make: Make, server: Server) -> None:
    either = make(server.address)
    session = await either.open(picture())
    for _ in range(3):
        await either.ask(session, QUESTION)
    for wrong in (0, 4, True, "1"):
        with pytest.raises(InvalidArgument, match="1 to the 3 rounds"):
            await either.of(session, "undo", wrong)
    again = either.client.session(session.session_id)
    assert await either.of(again, "undo", 2) == 1, "it asks how many there are where it does not know"
    with pytest.raises(MovedOn):
        await either.of(session, "undo")
    assert len(await either.of(session, "history")) == 1
    assert await either.of(session, "undo") == 0


async def test_a_branch_begins_with_the_rounds_up_to_one(make: Make, server: Server, stage: Stage) -> None:
    either = make(server.address)
    session = await either.open(picture())
    first, second = await either.ask(session, QUESTION), await either.ask(session, "Segment the tumor.")
    lengths = []
    for after in (None, second, first, 0, (await either.of(session, "history"))[0]):
        branch = await either.of(session, "fork", after)
        lengths.append(branch.opening.rounds)
        assert len(await either.of(branch, "history")) == branch.opening.rounds
        assert branch.opening.height == 48
    assert lengths == [2, 2, 1, 1, 1]
    asked = await either.ask(branch, "Segment the rest.", refer_to=0)
    assert (asked.index, asked.cache.embedding_hit) == (1, True)
    await either.of(session, "undo")
    with pytest.raises(StaleReference):
        await either.of(session, "fork", second)
    await either.close()
    assert stage.sessions.count == 0


# ---- masks of one's own


async def test_a_question_about_a_mask_of_ones_own(make: Make, server: Server) -> None:
    either = make(server.address)
    session = await either.open(picture())
    told = await either.ask(session, QUESTION, refer_to=MASK, origin="slice 41")
    used = told.reference
    assert (used.index, used.source, used.origin, used.round_id) == (None, "given", "slice 41", "")
    assert used.mask_digest == masks.digest(MASK).hex()
    assert "refers to a given mask" in str(told)
    rounds = [Round(QUESTION, refer_to=MASK.view(np.uint8)), Round(QUESTION, refer_to=1)]
    both = await either.segment(session, rounds)
    assert [each.reference.source for each in both] == ["given", "round"]
    wrong = {
        "question.given_mask.mask": [np.arange(6, dtype=np.uint8).reshape(2, 3), MASK.astype(float), MASK[0]],
        "question.given_mask": [np.zeros_like(MASK)],
    }
    for field, values in wrong.items():
        for value in values:
            with pytest.raises(InvalidArgument) as caught:
                await either.ask(session, QUESTION, refer_to=value)
            assert caught.value.violations[0].field.startswith(field)
    with pytest.raises(InvalidArgument, match="origin"):
        await either.ask(session, QUESTION, refer_to=told, origin="slice 41")


async def test_a_round_that_is_given_as_a_whole(make: Make, server: Server, stage: Stage) -> None:
    either = make(server.address)
    session = await either.open(picture())
    seeded = await either.of(session, "seed", QUESTION, "It is [SEG].", MASK)
    assert (seeded.seeded, seeded.score, seeded.index) == (True, None, 0)
    np.testing.assert_array_equal(seeded.mask, MASK)
    rounds = [Round("The tumor.", answer="It is [SEG].", seed=MASK), Round("In it.", refer_to=1)]
    results = await either.segment(session, rounds)
    assert [each.seeded for each in results] == [True, False]
    assert len(stage.language.script.asked("complete")) == 1
    with pytest.raises(InvalidArgument) as caught:
        await either.of(session, "seed", QUESTION, "", MASK)
    assert caught.value.violations[0].field == "question.answer"


# ---- kept, and taken up again


async def test_a_session_that_is_kept_outlives_its_block_and_its_client(make: Make, server: Server) -> None:
    either, later = make(server.address), make(server.address)
    kept, other = await either.open(picture(), keep=True), await either.open(picture())
    first = await either.ask(kept, QUESTION)
    for each in (kept, other):
        await either.use(each)
    await either.close()
    again = await later.call("resume", kept.session_id)
    assert (again.opening.height, again.opening.rounds) == (48, 1)
    assert again.expires_at >= kept.expires_at
    [past] = await later.of(again, "history")
    assert past.round_id == first.round_id
    assert (await later.ask(again, QUESTION, refer_to=first)).index == 1
    await later.use(again)
    await later.of(again, "close")
    for session in (kept, other):
        with pytest.raises(SessionClosed):
            await later.call("resume", session.session_id)
    with pytest.raises(NotFound):
        await later.call("resume", "A" * 22)


async def test_what_is_raised_of_a_session_that_is_gone(make: Make, server: Server, stage: Stage) -> None:
    either = make(server.address)
    session = await either.open(picture())
    stage.sessions._idle_timeout = 0.0
    for name in ("history", "keep_alive"):
        with pytest.raises(SessionExpired):
            await either.of(session, name)
    with pytest.raises(SessionExpired):
        await either.call("resume", session.session_id)


async def test_a_parked_session_gets_its_image_again(make: Make, server: Server, stage: Stage) -> None:
    either = make(server.address)
    session = await either.open(picture(), keep=True)
    first = await either.ask(session, QUESTION)
    stage.sessions.__class__ = Parking
    stage.sessions.parked = {session.session_id}
    with pytest.raises(NeedsImage):
        await either.ask(session, QUESTION)
    again = await either.call("resume", session.session_id, image=picture())
    assert (await either.ask(again, QUESTION, refer_to=first)).index == 1
    stage.sessions.parked = {session.session_id}
    with pytest.raises(FailedPrecondition) as caught:
        await either.call("resume", session.session_id, image=picture(seed=1))
    assert caught.value.reason == "OTHER_IMAGE"


async def test_sessions_are_listed_by_page(make: Make, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    either = make(server.address)
    with pytest.raises(FailedPrecondition) as caught:
        await either.listed()
    assert caught.value.reason == "NOT_AUTHENTICATED"
    for module in (sessions, service):
        monkeypatch.setattr(module, "caller_of", lambda _: "x509_subject:anna")
    monkeypatch.setattr(sessions, "_PAGE", 2)
    opened = [await either.open(picture(), keep=number == 0) for number in range(5)]
    await either.ask(opened[0], QUESTION)
    listed = await either.listed()
    assert [each.session_id for each in listed] == [each.session_id for each in reversed(opened)]
    assert [(each.keep, each.rounds, each.state) for each in listed[3:]] == [(False, 0, "open"), (True, 1, "open")]


# ---- progress


async def test_progress_is_told_until_the_result_is_there(make: Make, server: Server) -> None:
    either = make(server.address)
    session = await either.open(picture())
    told: list[Progress] = []
    assert (await either.ask(session, QUESTION, progress=told.append)).index == 0
    assert {"language", "decode"} <= {each.stage for each in told}
    told.clear()
    rounds = [Round(QUESTION), Round(QUESTION, refer_to=1)]
    assert [each.index for each in await either.segment(session, rounds, progress=told.append)] == [1, 2]
    assert {(each.wave, each.waves) for each in told if each.stage == "decode"} == {(0, 2), (1, 2)}
    assert await either.segment(session, rounds[:1])


# ---- answers that are lost on their way


class Wire:
    """Between a client and a server, until it is cut."""

    def __init__(self, port: int) -> None:
        self._port, self._ends = port, set[asyncio.StreamWriter]()

    def cut(self) -> None:
        """Every connection that there is; new ones are made again."""
        for each in self._ends:
            each.transport.abort()

    async def joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, away = await asyncio.open_connection("127.0.0.1", self._port)
        self._ends |= {writer, away}
        await asyncio.gather(self._carry(reader, away), self._carry(there, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def wire(server: Server) -> AsyncIterator[tuple[Wire, str]]:
    between = Wire(int(server.address.rpartition(":")[2]))
    listening = await asyncio.start_server(between.joined, "127.0.0.1", 0)
    async with listening:
        yield between, f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        between.cut()


async def test_a_round_whose_answer_was_lost_is_asked_again_once(make: Make, server: Server, stage: Stage) -> None:
    async with wire(server) as (between, address):
        either = make(address)
        session = await either.open(picture())
        stage.vision.script.hold("decode")
        asked = asyncio.ensure_future(either.ask(session, QUESTION))
        await stage.vision.script.reached("decode")
        between.cut()
        stage.vision.script.let_go("decode")
        assert (await asked).index == 0
        assert [each.index for each in await either.of(session, "history")] == [0]
        await either.close()


async def test_a_dialogue_that_was_cut_goes_on(make: Make, server: Server, stage: Stage) -> None:
    async with wire(server) as (between, address):
        either = make(address)
        session = await either.open(picture())
        complete, passes = stage.language.complete, 0

        async def cutting(prompt: object) -> object:
            nonlocal passes
            passes += 1
            if passes == 2:
                between.cut()
                await asyncio.sleep(0.05)
            return await complete(prompt)

        stage.language.complete = cutting
        rounds = [Round(QUESTION), Round(QUESTION, refer_to=0), Round(QUESTION, refer_to=1)]
        results = await either.segment(session, rounds)
        assert [each.index for each in results] == [0, 1, 2]
        history = await either.of(session, "history")
        assert [each.round_id for each in history] == [each.round_id for each in results]
        await either.close()
