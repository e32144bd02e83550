"""What every SessionStore does, wherever sessions lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from serving.errors import Exhausted, NotFound, PreconditionFailed, Reason
from serving.history import changes
from serving.history.record import RequestKey, Session
from serving.history.rounds import Amendment
from serving.ports import SessionStore
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.sessions import SessionFile
from tests.scripted import redis
from tests.scripted.pictures import append, finished_round, mask, session
from tests.scripted.sessions import PickledSessions, file_sessions
from tests.unit.serving.manifests import manifest

MODEL = manifest()
IDLE = 60.0
LIFETIME = 300.0
KEY = RequestKey("d8b8b1f0-0000-4000-8000-000000000000", b"asked")
LARGE = 512
"""Side of an image of which the memory limit holds three."""
BYTES = 3 * (LARGE * LARGE * 3 + 64 * 64 * 3 + 100_000)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Subject:
    store: SessionStore
    clock: Clock = field(default_factory=Clock)
    keep: bool = False

    def made(self, session_id: str = "s", caller: str = "anna", side: int = 32, opened_at: float = 0.0) -> Session:
        plain = session(MODEL, session_id, caller, side)
        return replace(plain, record=replace(plain.record, keep=self.keep, opened_at=opened_at))

    async def opened(self, session_id: str = "s", caller: str = "anna", side: int = 32) -> Session:
        created = self.made(session_id, caller, side)
        await self.store.create(created)
        return created

    async def rounds_of(self, session_id: str = "s", caller: str = "anna") -> int:
        async with self.store.exclusive(session_id, caller) as held:
            return len(held.rounds)


STORES = ["memory", "pickled", "sqlite", "redis"]


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as made:
        yield made


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Running]:
    with redis.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@asynccontextmanager
async def made(name: str, request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    clock = Clock()
    directory, executor = request.getfixturevalue("tmp_path"), request.getfixturevalue("executor")
    if name == "pickled":
        yield Subject(PickledSessions(4, BYTES, IDLE, clock, lifetime_s=LIFETIME), clock)
        return
    live = MemorySessions(4, BYTES, IDLE, clock, lifetime_s=LIFETIME, parks=name != "memory")
    if name == "memory":
        yield Subject(live, clock)
        return
    if name.startswith("redis"):
        server = request.getfixturevalue("redis_server")
        server.client.flushdb()
        async with redis.kept(server.place(), live, executor, lifetime_s=LIFETIME, clock=clock) as store:
            yield Subject(store, clock, name == "redis, kept")
        return
    file = SessionFile(directory / "sessions.db", key=bytes(32))
    async with file_sessions(file, live, executor, lifetime_s=LIFETIME, clock=clock) as store:
        yield Subject(store, clock, name == "sqlite, kept")


@pytest.fixture(params=[*STORES, "sqlite, kept", "redis, kept"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with made(request.param, request) as subject:
        yield subject


@pytest.fixture(params=STORES)
async def forgetful(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    """What is idle ends."""
    async with made(request.param, request) as subject:
        yield subject


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_session_is_held_as_it_was_created(subject: Subject) -> None:
    created = await subject.opened()
    async with subject.store.exclusive("s", "anna") as held:
        assert (held.session_id, held.caller, held.rounds) == ("s", "anna", ())
        assert np.array_equal(held.image.pixels, created.image.pixels)
        assert held.image.embedding_key == created.image.embedding_key


async def test_appended_rounds_are_seen_by_the_next(subject: Subject) -> None:
    await subject.opened()
    async with subject.store.exclusive("s", "anna") as held:
        first = await append(subject.store, held, [finished_round(MODEL, 1)])
        second = await append(subject.store, first, [finished_round(MODEL, 2), finished_round(MODEL, 3)])
        assert (len(held.rounds), len(first.rounds), len(second.rounds)) == (0, 1, 3)
    async with subject.store.exclusive("s", "anna") as held:
        expected = [finished_round(MODEL, seed) for seed in (1, 2, 3)]
        assert [r.token_ids for r in held.rounds] == [r.token_ids for r in expected]
        for ours, theirs in zip(held.rounds, expected, strict=True):
            assert ours.mask is not None
            assert theirs.mask is not None
            assert np.array_equal(ours.mask.bits(), theirs.mask.bits())
            assert ours.reference is not None
            assert theirs.reference is not None
            assert np.array_equal(ours.reference.box, theirs.reference.box)
            assert ours.reference.crop.digest == theirs.reference.crop.digest


async def test_what_was_appended_before_a_failure_stays(subject: Subject) -> None:
    await subject.opened()

    async def fails_in_its_second_wave() -> None:
        async with subject.store.exclusive("s", "anna") as held:
            await append(subject.store, held, [finished_round(MODEL, 1)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails_in_its_second_wave()
    assert await subject.rounds_of() == 1


async def test_only_what_is_held_and_current_can_grow(subject: Subject) -> None:
    created = await subject.opened()
    with pytest.raises(ValueError, match="held"):
        await append(subject.store, created, [finished_round(MODEL, 1)])
    async with subject.store.exclusive("s", "anna") as held:
        await append(subject.store, held, [finished_round(MODEL, 1)])
        with pytest.raises(ValueError, match="held"):
            await append(subject.store, held, [finished_round(MODEL, 2)])  # the record before


async def test_turns_go_in_the_order_of_arrival(subject: Subject) -> None:
    await subject.opened()
    order: list[int] = []
    inside = 0

    async def request(number: int) -> None:
        nonlocal inside
        async with subject.store.exclusive("s", "anna") as held:
            inside += 1
            assert inside == 1
            order.append(number)
            await turns()
            assert len(held.rounds) == number
            await append(subject.store, held, [finished_round(MODEL, number)])
            inside -= 1

    await asyncio.gather(*(request(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]


async def test_other_sessions_do_not_wait(subject: Subject) -> None:
    await subject.opened("s")
    await subject.opened("t")
    async with subject.store.exclusive("s", "anna"):
        async with asyncio.timeout(1):
            assert await subject.rounds_of("t") == 0


async def test_a_waiter_that_gives_up_is_skipped(subject: Subject) -> None:
    await subject.opened()
    async with subject.store.exclusive("s", "anna"):
        waiting = [asyncio.create_task(subject.rounds_of()) for _ in range(3)]
        await turns()
        waiting[0].cancel()
        waiting[1].cancel()
        await turns()
        assert not waiting[2].done()
    async with asyncio.timeout(1):
        assert await waiting[2] == 0
        assert await subject.rounds_of() == 0
    assert waiting[0].cancelled()


async def test_a_cancelled_holder_makes_way(subject: Subject) -> None:
    await subject.opened()

    async def hold() -> None:
        async with subject.store.exclusive("s", "anna"):
            await asyncio.sleep(60)

    holder = asyncio.create_task(hold())
    await turns()
    waiting = asyncio.create_task(subject.rounds_of())
    await turns()
    holder.cancel()
    async with asyncio.timeout(1):
        assert await waiting == 0


async def test_a_waiter_cancelled_in_the_moment_of_its_turn(subject: Subject) -> None:
    await subject.opened()
    async with subject.store.exclusive("s", "anna"):
        first, second = asyncio.create_task(subject.rounds_of()), asyncio.create_task(subject.rounds_of())
        await turns()
    first.cancel()  # its turn has come, and it has not run since
    async with asyncio.timeout(1):
        assert await second == 0


async def test_unknown_and_foreign_sessions_look_alike(subject: Subject) -> None:
    await subject.opened()
    for session_id, caller in (("unknown", "anna"), ("s", "berta")):
        with pytest.raises(NotFound):
            await subject.rounds_of(session_id, caller)
        with pytest.raises(NotFound):
            await subject.store.close(session_id, caller)
    assert await subject.rounds_of() == 0


async def test_closed_is_closed(subject: Subject) -> None:
    await subject.opened()
    await subject.store.close("s", "anna")
    await subject.store.close("s", "anna")
    with pytest.raises(PreconditionFailed):
        await subject.rounds_of()
    with pytest.raises(NotFound):
        await subject.rounds_of("s", "berta")
    with pytest.raises(NotFound):
        await subject.store.close("s", "berta")


async def test_closing_reaches_those_who_wait_and_the_one_who_holds(subject: Subject) -> None:
    await subject.opened()
    async with subject.store.exclusive("s", "anna") as held:
        waiting = asyncio.create_task(subject.rounds_of())
        await turns()
        await subject.store.close("s", "anna")
        with pytest.raises(PreconditionFailed):
            await append(subject.store, held, [finished_round(MODEL, 1)])
    with pytest.raises(PreconditionFailed):
        await waiting


async def test_idle_sessions_expire(forgetful: Subject) -> None:
    await forgetful.opened("s")
    await forgetful.opened("t")
    forgetful.clock.now += IDLE * 0.75
    assert await forgetful.rounds_of("t") == 0
    forgetful.clock.now += IDLE * 0.75
    with pytest.raises(NotFound):
        await forgetful.rounds_of("s")
    assert await forgetful.rounds_of("t") == 0


async def test_who_listens_hears_of_every_session_that_leaves_memory(subject: Subject) -> None:
    gone: list[tuple[str, str]] = []
    subject.store.on_gone(lambda session_id, caller: gone.append((session_id, caller)))
    await subject.opened("idle", "berta")
    await subject.opened("closed")
    await subject.opened()
    await subject.store.close("closed", "anna")
    await subject.store.close("closed", "anna")
    subject.clock.now += IDLE * 0.75
    await subject.rounds_of()
    assert gone == [("closed", "anna")]
    subject.clock.now += IDLE * 0.75
    await subject.rounds_of()
    assert gone == [("closed", "anna"), ("idle", "berta")]


async def test_a_held_session_is_not_idle(forgetful: Subject) -> None:
    await forgetful.opened()
    async with forgetful.store.exclusive("s", "anna") as held:
        waiting = asyncio.create_task(forgetful.rounds_of())
        await turns()
        forgetful.clock.now += IDLE * 2
        await append(forgetful.store, held, [finished_round(MODEL, 1)])
    assert await waiting == 1
    forgetful.clock.now += IDLE / 2
    assert await forgetful.rounds_of() == 1


async def test_the_number_of_sessions_is_limited(subject: Subject) -> None:
    for number in range(4):
        await subject.opened(f"s{number}")
    with pytest.raises(Exhausted):
        await subject.opened("one too many")
    await subject.store.close("s0", "anna")
    await subject.opened("in its place")


async def test_expired_sessions_make_room(forgetful: Subject) -> None:
    for number in range(4):
        await forgetful.opened(f"s{number}")
    forgetful.clock.now += IDLE * 2
    await forgetful.opened("after all expired")


async def test_their_bytes_are_limited(subject: Subject) -> None:
    for number in range(3):
        await subject.opened(f"s{number}", side=LARGE)
    with pytest.raises(Exhausted):
        await subject.opened("one too many", side=LARGE)
    await subject.store.close("s0", "anna")
    await subject.opened("in its place", side=LARGE)


async def test_rounds_count_towards_the_bytes(subject: Subject) -> None:
    for number in range(2):
        await subject.opened(f"s{number}", side=LARGE)
    crop = finished_round(MODEL, 1).reference
    assert crop is not None
    many = [finished_round(MODEL, seed) for seed in range(LARGE * LARGE * 3 // crop.crop.pixels.nbytes // 2)]
    async with subject.store.exclusive("s0", "anna") as held:
        await append(subject.store, held, many)
    with pytest.raises(Exhausted):
        await subject.opened("no room", side=LARGE)


async def test_rounds_that_do_not_fit_are_not_committed(subject: Subject) -> None:
    for number in range(3):
        await subject.opened(f"s{number}", side=LARGE)
    crop = finished_round(MODEL, 1).reference
    assert crop is not None
    many = [finished_round(MODEL, seed) for seed in range(LARGE * LARGE * 3 // crop.crop.pixels.nbytes)]
    async with subject.store.exclusive("s0", "anna") as held:
        with pytest.raises(Exhausted):
            await append(subject.store, held, many)
    async with subject.store.exclusive("s0", "anna") as held:
        assert held.rounds == ()
    await subject.store.close("s1", "anna")
    async with subject.store.exclusive("s0", "anna") as held:
        assert len((await append(subject.store, held, many[:3])).rounds) == 3


async def test_what_is_held_may_shrink_and_change(subject: Subject) -> None:
    await subject.opened()
    async with subject.store.exclusive("s", "anna") as held:
        grown = await append(subject.store, held, [finished_round(MODEL, seed) for seed in (1, 2, 3)])
        shorter = changes.with_first_rounds(grown.record, 2, None)
        await subject.store.commit(shorter)
        await subject.store.commit(changes.with_amendment(shorter, 0, Amendment(mask(9), "by hand"), KEY))
    async with subject.store.exclusive("s", "anna") as held:
        assert [each.round_id for each in held.rounds] == ["r1", "r2"]
        assert [each.mask.digest for each in held.rounds] == [mask(9).digest, mask(2).digest]
        assert held.rounds[0].segmentation.mask.digest == mask(1).digest
        assert changes.earlier_request(held.record, KEY).results[0].round.amendment.origin == "by hand"


async def test_a_session_is_read_while_another_request_holds_it(subject: Subject) -> None:
    await subject.opened()
    async with subject.store.exclusive("s", "anna") as held:
        await append(subject.store, held, [finished_round(MODEL, 1)])
        async with asyncio.timeout(1):
            snapshot = await subject.store.read("s", "anna")
    assert (len(snapshot.record.rounds), snapshot.parked) == (1, False)


async def test_reading_counts_as_use(forgetful: Subject) -> None:
    await forgetful.opened()
    for _ in range(3):
        forgetful.clock.now += IDLE * 0.75
        assert (await forgetful.store.read("s", "anna")).seconds_left == IDLE
    forgetful.clock.now += IDLE / 4
    assert forgetful.store.seconds_left("s", "anna") == IDLE  # if nothing is asked from now on
    forgetful.clock.now += IDLE
    with pytest.raises(NotFound):
        await forgetful.store.read("s", "anna")
    assert forgetful.store.seconds_left("s", "anna") == 0


async def test_no_session_outlives_its_lifetime(subject: Subject) -> None:
    await subject.opened("s")
    for _ in range(5):
        subject.clock.now += LIFETIME / 6
        await subject.store.read("s", "anna")
    assert subject.store.seconds_left("s", "anna") == pytest.approx(LIFETIME / 6)
    await subject.opened("t")
    async with subject.store.exclusive("s", "anna") as held:
        subject.clock.now += LIFETIME / 6
        await append(subject.store, held, [finished_round(MODEL, 1)])  # what is in use is finished
    with pytest.raises(NotFound) as gone:
        await subject.store.read("s", "anna")
    assert gone.value.reason is Reason.SESSION_EXPIRED
    await subject.store.read("t", "anna")


async def test_the_owner_alone_is_told_why_a_session_is_gone(forgetful: Subject) -> None:
    await forgetful.opened("closed")
    await forgetful.store.close("closed", "anna")
    await forgetful.opened("expired")
    forgetful.clock.now += IDLE
    told = {}
    for caller in ("anna", "berta"):
        for name in ("closed", "expired", "unknown"):
            with pytest.raises((NotFound, PreconditionFailed)) as refused:
                await forgetful.store.read(name, caller)
            told[caller, name] = refused.value.reason
    assert told == dict.fromkeys(told) | {
        ("anna", "closed"): Reason.SESSION_CLOSED,
        ("anna", "expired"): Reason.SESSION_EXPIRED,
    }


async def test_an_id_is_used_once_by_each_caller(subject: Subject) -> None:
    await subject.opened("s")
    await subject.opened("s", "berta")
    await subject.store.close("s", "anna")
    for caller in ("anna", "berta"):
        with pytest.raises(PreconditionFailed) as used:
            await subject.opened("s", caller)
        assert used.value.reason is Reason.SESSION_ID_USED
    assert await subject.rounds_of("s", "berta") == 0


async def test_a_caller_has_pages_of_its_own_sessions(subject: Subject) -> None:
    for number, (name, caller) in enumerate([("a", "anna"), ("b", "berta"), ("c", "anna"), ("d", "anna")]):
        await subject.store.create(subject.made(name, caller, opened_at=float(number)))
    first = await subject.store.page("anna", None, 2)
    assert [each.session_id for each in first] == ["d", "c"]
    assert (first[0].size, first[0].rounds, first[0].parked, first[0].seconds_left) == (
        (32, 32),
        0,
        False,
        LIFETIME if subject.keep else IDLE,
    )
    after = (first[-1].opened_at, first[-1].session_id)
    assert [each.session_id for each in await subject.store.page("anna", after, 2)] == ["a"]
    assert await subject.store.page("carl", None, 2) == []


async def test_a_session_with_its_image_is_not_given_another(subject: Subject) -> None:
    created = await subject.opened()
    await subject.store.resume("s", "anna", session(MODEL, "t", side=64).image)
    async with subject.store.exclusive("s", "anna") as held:
        assert np.array_equal(held.image.pixels, created.image.pixels)
    with pytest.raises(NotFound):
        await subject.store.resume("s", "berta", created.image)
