"""Order, bounds, deadlines and cancellation of the queue; a clock that a test turns."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import request_context
from serving.admission.cost import CostModel, Throughput
from serving.admission.queue import _DELAYS_KEPT, BACKGROUND_WEIGHT, AdmissionQueue
from serving.domain import CacheUse, Priority, Timings
from serving.errors import Exhausted, Shed
from serving.history.rounds import Round, RoundResult
from serving.observer import WaveTerms
from serving.ports import ExpectedWork, Place

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH
ROUND = ExpectedWork(encodes=0, passes=1, masks=0)
"""One second of work, as ``expectations`` has it."""
IMAGE = ExpectedWork(encodes=1, passes=1, masks=0)
"""Eleven seconds."""
AHEAD = ExpectedWork(encodes=1, passes=0, masks=0, ahead=True)
"""Ten seconds, for which nobody waits."""


def expectations() -> CostModel:
    """A pass takes a second, an encode ten, a mask nothing."""
    made = CostModel()
    made.language_pass.learn(1.0)
    made.encode.learn(10.0)
    made.mask.learn(0.0)
    return made


@dataclass
class Scene:
    """Requests by name, each of which works until it is told to end."""

    concurrency: int = 1
    encode_concurrency: int | None = None
    max_wait: float = 100.0
    now: float = 0.0
    begun: list[str] = field(default_factory=list)
    _ends: dict[str, asyncio.Event] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        waits = {INTERACTIVE: self.max_wait, BATCH: 10 * self.max_wait}
        self.queue = AdmissionQueue(
            self.concurrency, self.encode_concurrency or self.concurrency, waits, expectations(), lambda: self.now
        )

    async def ask(
        self,
        name: str,
        priority: Priority = INTERACTIVE,
        *,
        caller: str = "anna",
        work: ExpectedWork = ROUND,
        allowed: float | None = None,
        request_id: str = "",
    ) -> asyncio.Task[None]:
        self._ends[name] = asyncio.Event()

        async def request() -> None:
            request_context.set_deadline(allowed)
            request_context.set_request_id([(request_context.REQUEST_ID, request_id)] if request_id else [])
            async with self.queue.admitted(work, caller, priority) as self.places[name]:
                self.begun.append(name)
                await self._ends[name].wait()

        self.tasks[name] = asyncio.create_task(request())
        await self.settle()
        return self.tasks[name]

    async def encoded(self, name: str, *, hit: bool = False) -> None:
        self.places[name].encoded(hit=hit)
        await self.settle()

    async def end(self, name: str, seconds: float = 1.0) -> None:
        self.now += seconds
        self._ends[name].set()
        await self.tasks[name]
        await self.settle()

    async def end_all(self) -> None:
        """In the order in which they begin."""
        done = 0
        while done < len(self.begun):
            await self.end(self.begun[done])
            done += 1

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@asynccontextmanager
async def scene(**changes: float) -> AsyncIterator[Scene]:
    made = Scene(**changes)
    try:
        yield made
    finally:
        for task in made.tasks.values():
            task.cancel()
        await asyncio.gather(*made.tasks.values(), return_exceptions=True)
    assert not made.queue._waiting
    assert not made.queue._working
    assert not made.queue._last_tags


async def test_one_callers_requests_go_in_the_order_of_their_arrival() -> None:
    async with scene() as play:
        for name in "abcde":
            await play.ask(name)
        await play.end_all()
        assert play.begun == list("abcde")


async def test_interactive_goes_before_batch() -> None:
    async with scene() as play:
        await play.ask("working")
        await play.ask("batch 1", BATCH)
        await play.ask("batch 2", BATCH)
        await play.ask("a")
        await play.ask("b")
        await play.end_all()
        assert play.begun == ["working", "a", "b", "batch 1", "batch 2"]


async def test_batch_does_not_starve() -> None:
    """While interactive requests never cease, batch has its part."""
    async with scene(max_wait=1000.0) as play:
        await play.ask("working")
        await play.ask("batch", BATCH)
        for number in range(2 * BACKGROUND_WEIGHT):
            await play.ask(f"{number}")
        await play.end_all()
        assert play.begun.index("batch") == pytest.approx(BACKGROUND_WEIGHT, abs=2)


async def test_batch_leaves_places_to_interactive() -> None:
    async with scene(concurrency=4) as play:
        for number in range(6):
            await play.ask(f"batch {number}", BATCH)
        assert len(play.begun) == 2
        await play.ask("a")
        await play.ask("b")
        assert play.begun[2:] == ["a", "b"]
        assert play.queue.stats(BATCH).waiting == 4
        await play.end("batch 0")
        assert play.begun[-1] == "batch 2"


async def test_images_leave_places_to_rounds() -> None:
    """However many images wait to be encoded, a round on a known one begins at once."""
    async with scene(concurrency=4, encode_concurrency=2, max_wait=25.0) as play:
        for number in range(3):
            await play.ask(f"image {number}", work=IMAGE)
        assert play.begun == ["image 0", "image 1"]
        assert isinstance((await play.ask("image 3", work=IMAGE)).exception(), Exhausted)
        await play.ask("a")
        await play.ask("b")
        assert play.begun[2:] == ["a", "b"]
        await play.ask("c")
        await play.end("a")
        assert play.begun[-1] == "c"
        await play.end("image 0")
        assert play.begun[-1] == "image 2"


async def test_an_encode_is_over_long_before_a_dialogue_is() -> None:
    """The place to encode goes on to the next as soon as the image is encoded; the place to run does not."""
    async with scene(concurrency=2, encode_concurrency=1) as play:
        for number in range(3):
            await play.ask(f"image {number}", work=IMAGE)
        assert play.begun == ["image 0"]
        await play.encoded("image 0")
        assert play.begun == ["image 0", "image 1"]
        await play.encoded("image 1")
        assert play.begun == ["image 0", "image 1"]
        await play.end("image 0")
        assert play.begun[-1] == "image 2"
        await play.encoded("image 0")  # too late to matter


async def test_images_encoded_ahead_leave_a_place_to_a_question() -> None:
    async with scene(concurrency=8, encode_concurrency=2) as play:
        await play.ask("ahead 0", BATCH, work=AHEAD)
        await play.ask("ahead 1", BATCH, work=AHEAD)
        assert play.begun == ["ahead 0"]
        await play.ask("question", work=IMAGE)
        assert play.begun == ["ahead 0", "question"]
        await play.encoded("ahead 0")
        assert play.begun[-1] == "ahead 1"
    async with scene(concurrency=8, encode_concurrency=1) as play:  # there is none to leave
        await play.ask("ahead", BATCH, work=AHEAD)
        assert play.begun == ["ahead"]


async def test_work_ahead_begins_when_nothing_else_may_and_of_a_callers_the_newest_first() -> None:
    async with scene() as play:
        await play.ask("a", work=IMAGE)
        for number, caller in enumerate(["anna", "anna", "anna", "bob"]):
            await play.ask(f"ahead {number}", BATCH, caller=caller, work=AHEAD)
        await play.ask("batch", BATCH, work=IMAGE)
        await play.ask("b", work=IMAGE)
        await play.end_all()
        assert play.begun == ["a", "b", "batch", "ahead 2", "ahead 3", "ahead 1", "ahead 0"]


async def test_work_ahead_turns_no_request_away() -> None:
    """However much of it waits, and while an image is encoded: a round on a known image takes the next place."""
    async with scene(concurrency=4, encode_concurrency=2, max_wait=5.0) as play:
        for number in range(50):
            assert not (await play.ask(f"ahead {number}", BATCH, work=AHEAD)).done(), "it is never refused"
        for name in "abcd":
            assert not (await play.ask(name)).done()
        assert play.begun == ["ahead 0", "a", "b", "c"]
        assert not (await play.ask("batch", BATCH)).done()
        assert play.queue.stats(BATCH).waiting == 1


@pytest.mark.parametrize(("hit", "rate"), [(False, 11.0), (True, 1.0)])
async def test_what_others_encoded_is_not_work_that_was_done(hit: bool, rate: float) -> None:
    async with scene() as play:
        for number in range(200):
            await play.ask(f"{number}", work=IMAGE)
            await play.encoded(f"{number}", hit=hit)
            await play.end(f"{number}")
        assert play.queue._throughput.rate == pytest.approx(rate, rel=0.05)


async def test_callers_share_alike() -> None:
    """Ben's two requests do not wait for all of Anna's twenty."""
    async with scene() as play:
        await play.ask("working", caller="carl")
        for number in range(20):
            await play.ask(f"anna {number}", caller="anna")
        await play.ask("ben 0", caller="ben")
        await play.ask("ben 1", caller="ben")
        await play.end_all()
        assert play.begun.index("ben 0") <= 3
        assert play.begun.index("ben 1") <= 5


async def test_a_new_image_weighs_more_than_a_round() -> None:
    async with scene() as play:
        await play.ask("working", caller="carl")
        for number in range(2):
            await play.ask(f"image {number}", caller="anna", work=ExpectedWork(encodes=1, passes=1, masks=1))
        for number in range(12):
            await play.ask(f"round {number}", caller="ben")
        await play.end_all()
        assert play.begun.index("image 0") == pytest.approx(11, abs=1)
        assert play.begun[-1] == "image 1"


async def test_what_cannot_be_done_soon_is_refused_with_the_time_to_wait() -> None:
    async with scene(max_wait=3.5) as play:
        for name in "abcd":
            await play.ask(name)
        refused = await play.ask("e")
        error = refused.exception()
        assert isinstance(error, Exhausted)
        assert error.reason is Shed.QUEUE
        assert error.retry_after == pytest.approx(4.0)
        assert not (await play.ask("batch", BATCH)).done()  # which may wait longer
        await play.end("a")
        assert not (await play.ask("f")).done()
        assert play.queue.stats(INTERACTIVE).waiting == 3


async def test_those_who_are_refused_together_are_told_to_come_one_after_the_other() -> None:
    async with scene(max_wait=3.5) as play:
        for name in "abcd":
            await play.ask(name)
        told = [(await play.ask(f"refused {number}")).exception().retry_after for number in range(40)]
        assert told[:4] == pytest.approx([4.0, 5.0, 6.0, 7.0])
        assert max(told) == pytest.approx(19.0)  # expectations do not see further
        play.now += 1.0
        assert not (await play.ask("later")).done()  # one that comes while there is room is not held off


async def test_a_request_that_comes_again_may_wait_as_long_as_it_was_told_to_keep_away() -> None:
    """Expectations err: others were faster, work took longer."""
    known, other = (str(uuid.UUID(int=number)) for number in range(2))
    async with scene(max_wait=3.5) as play:
        for name in "abcd":
            await play.ask(name)
        told = (await play.ask("first", request_id=known)).exception().retry_after
        assert told == pytest.approx(4.0)
        assert (await play.ask("another", request_id=other)).exception()
        assert not (await play.ask("again", request_id=known)).done()
        assert (await play.ask("twice", request_id=known)).exception(), "a promise is kept once"


async def test_a_request_that_comes_again_holds_up_none_that_can_be_in_time() -> None:
    known = str(uuid.UUID(int=1))
    async with scene(max_wait=3.5) as play:
        for name in "abcd":
            await play.ask(name)
        await play.ask("refused", request_id=known)
        again = await play.ask("again", request_id=known)
        await play.end("a")
        await play.ask("fresh")
        for name in "bcd":
            await play.end(name)
        assert play.begun == ["a", "b", "c", "d", "fresh"]
        await play.end("fresh")
        assert play.begun[-1] == "again"
        assert not again.done()


async def test_few_requests_are_known_again() -> None:
    async with scene(max_wait=3.5) as play:
        for name in "abcd":
            await play.ask(name)
        for number in range(_DELAYS_KEPT + 3):
            await play.ask("refused", request_id=str(uuid.UUID(int=number)))
        assert len(play.queue._delays) == _DELAYS_KEPT


async def test_work_in_progress_counts_as_far_as_it_is_not_done() -> None:
    async with scene(max_wait=10.0) as play:
        await play.ask("image", work=IMAGE)
        assert (await play.ask("too early")).exception()
        play.now += 2.0
        assert not (await play.ask("later")).done()


async def test_a_throughput_above_one_lets_more_wait() -> None:
    """Engines that batch do several seconds of work in one."""
    async with scene(concurrency=4, max_wait=4.0) as play:
        for turn in range(20):
            for number in range(4):
                await play.ask(f"{turn} {number}")
            for number in range(4):
                await play.end(f"{turn} {number}", 0.25)
        assert play.queue._throughput.rate == pytest.approx(4.0, rel=0.2)
        for number in range(12):
            assert not (await play.ask(f"waiting {number}")).done()


async def test_a_deadline_that_waiting_would_break_is_refused_at_once() -> None:
    async with scene() as play:
        for name in "abc":
            await play.ask(name)
        error = (await play.ask("hasty", allowed=3.5)).exception()
        assert isinstance(error, Exhausted)
        assert error.reason is Shed.DEADLINE
        assert not (await play.ask("patient", allowed=60.0)).done()


async def test_a_free_place_is_never_refused() -> None:
    """Whatever is expected: the expectation may be wrong, and nothing is lost by trying."""
    async with scene(concurrency=2, max_wait=0.001) as play:
        await play.ask("a", work=IMAGE)
        await play.ask("b", allowed=0.5, work=IMAGE)
        assert play.begun == ["a", "b"]


async def test_who_has_waited_too_long_to_be_served_in_time_gives_the_place_on() -> None:
    async with scene() as play:
        await play.ask("working")
        late = await play.ask("late", allowed=4.0)
        await play.ask("next", allowed=60.0)
        await play.end("working", 3.5)
        error = late.exception()
        assert isinstance(error, Exhausted)
        assert error.reason is Shed.DEADLINE
        assert play.begun == ["working", "next"]


async def test_a_cancelled_request_leaves_the_queue_and_its_place() -> None:
    async with scene() as play:
        await play.ask("working")
        waiting = await play.ask("waiting")
        await play.ask("next")
        waiting.cancel()
        await play.settle()
        assert play.queue.stats(INTERACTIVE).waiting == 1
        play.tasks["working"].cancel()
        await play.settle()
        assert play.begun == ["working", "next"]


async def test_a_cancellation_that_meets_a_free_place() -> None:
    """Cancelled in the very moment in which it is let in: the place goes on to the next."""
    async with scene() as play:
        await play.ask("working")
        unlucky = await play.ask("unlucky")
        await play.ask("next")
        play._ends["working"].set()
        await asyncio.sleep(0)  # the place is given on now, and nobody has been told yet
        unlucky.cancel()
        await play.settle()
        assert unlucky.cancelled()
        assert play.begun[-1] == "next"


async def test_what_the_gauges_say() -> None:
    async with scene() as play:
        await play.ask("working")
        await play.ask("a")
        play.now += 2.0
        await play.ask("b", BATCH, work=ExpectedWork(encodes=1, passes=0, masks=0))
        play.now += 1.0
        ours, theirs = play.queue.stats(INTERACTIVE), play.queue.stats(BATCH)
    assert (ours.in_progress, ours.waiting, ours.waiting_cost, ours.age) == (1, 1, 1.0, 3.0)
    assert (theirs.in_progress, theirs.waiting, theirs.waiting_cost, theirs.age) == (0, 1, 10.0, 1.0)


REQUESTS = st.lists(
    st.tuples(st.sampled_from(Priority), st.sampled_from("abc"), st.integers(0, 5), st.booleans()), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.integers(1, 5))
def test_every_request_is_served_once_or_leaves(
    requests: list[tuple[Priority, str, int, bool]], concurrency: int
) -> None:
    """Whatever comes in whatever order, no place is lost, and no more are given than there are."""

    async def run() -> None:
        async with scene(concurrency=concurrency, max_wait=1e9) as play:
            for number, (priority, caller, passes, cancelled) in enumerate(requests):
                work = ExpectedWork(encodes=0, passes=passes, masks=0)
                task = await play.ask(f"{number}", priority, caller=caller, work=work)
                if cancelled:
                    task.cancel()
                await play.settle()
                assert sum(play.queue.stats(each).in_progress for each in Priority) <= concurrency
            gone = {f"{number}" for number, request in enumerate(requests) if request[3]}
            for name in gone & set(play.begun):
                play.begun.remove(name)
            await play.end_all()
            assert sorted(play.begun) == sorted({f"{number}" for number in range(len(requests))} - gone)

    asyncio.run(run())


TERMS = WaveTerms(0.6, Priority.INTERACTIVE, correctable=0)


def result(timings: Timings) -> RoundResult:
    nothing = Round("r", "Where?", "", (), None, None, None)
    return RoundResult(0, nothing, timings, CacheUse(False, 0, 1, 0))


def test_expectations_follow_what_is_measured() -> None:
    learnt = CostModel()
    guess = learnt.cost(ExpectedWork(1, 1, 0))
    learnt.wave([result(Timings(language=0.2, encode=3.0))], TERMS)
    assert learnt.cost(ExpectedWork(1, 1, 0)) == pytest.approx(3.2) != guess
    for _ in range(5):
        learnt.wave([result(Timings(language=5.0))], TERMS)  # a crowd: longer, but not more work
    assert learnt.cost(ExpectedWork(0, 1, 0)) < 0.8
    for _ in range(400):
        learnt.wave([result(Timings(language=5.0))], TERMS)  # it stays so
    assert learnt.cost(ExpectedWork(0, 1, 0)) == pytest.approx(5.0, rel=0.01)
    assert learnt.cost(ExpectedWork(0, 0, 0)) > 0


def test_throughput_forgets() -> None:
    throughput = Throughput(0.0)
    for second in range(1, 200):
        throughput.tick(float(second), busy=True, done=3.0)
    assert throughput.rate == pytest.approx(3.0, rel=0.05)
    throughput.tick(10_000.0, busy=False)  # idle time says nothing
    assert throughput.rate == pytest.approx(3.0, rel=0.05)
    for second in range(10_001, 10_200):
        throughput.tick(float(second), busy=True, done=0.5)
    assert throughput.rate == pytest.approx(0.5, rel=0.05)
