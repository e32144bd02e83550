"""Admission queue: which requests run now, and in which order the rest wait.

A request waits only if the work ahead of it can finish within its deadline and the limit on waiting; otherwise it
is refused at once, with a time to retry. A request that comes again by the same id may then wait for as long as it
was told to keep away, behind those that can still be in time: expectations err, and nothing may be refused for
ever. Work is counted in the seconds it is expected to take (``serving.admission.cost``), so an image that must be
encoded weighs more than a round on a known one.

Order: weighted fair queueing. Callers share alike, however many requests each has. Interactive requests go before
batch ones and before those that came again, which get one part in ``BACKGROUND_WEIGHT`` + 1 of the work while both
wait, so that none starves. Batch
requests hold at most half of the concurrency, so an interactive one never waits for a whole batch of them.
Requests that need their image encoded have a limit of their own, until it is encoded: a round on a known image
takes a fraction of their time, and does not wait for them. Of these places batch requests leave one, where there
are two or more. Work ahead, for which nobody waits yet, begins when nothing else may, and delays no request.

Knows costs, callers, priorities and deadlines. Does not know what a request asks. All on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace

from serving import request_context
from serving.admission.cost import CostModel, Throughput
from serving.domain import Priority, Progress, Tell, WorkStage, unheard
from serving.errors import Exhausted, Shed
from serving.ports import ExpectedWork, Place
from serving.stats import QueueStats

BACKGROUND_WEIGHT = 16
_RETRY_AT_LEAST, _RETRY_AT_MOST = 0.1, 60.0
_SPREAD_AT_MOST = 15.0
"""Seconds over which refused requests are told to come again: expectations do not see further."""
_DELAYS_KEPT = 4096
"""Refused requests that are known again when they come back."""


@dataclass(slots=True, eq=False)
class _Ticket:
    """A request's; a Place once it is admitted."""

    caller: str
    priority: Priority
    encodes: bool
    """Its image is not encoded yet."""
    late: bool
    """It came again, to wait longer than others may."""
    ahead: bool
    """Nobody waits for it yet."""
    cost: float
    cost_of_rest: float
    """Without the encode."""
    tag: float
    """Virtual time at which it would be finished: the lowest is next."""
    since: float
    """When it came; once it runs, when it began."""
    must_end: float | None
    tell: Tell
    freed: Callable[[], None]
    """Others may begin."""
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def encoded(self, *, hit: bool) -> None:
        """See ``Place``."""
        if self.encodes:
            self.encodes = False
            if hit:
                self.cost = self.cost_of_rest
            self.freed()


class AdmissionQueue:
    """A Gate."""

    def __init__(
        self,
        concurrency: int,
        encode_concurrency: int,
        max_wait: Mapping[Priority, float],
        expectations: CostModel,
        clock: Callable[[], float],
    ) -> None:
        """``concurrency``: requests that run at once; ``encode_concurrency``: of them, those that encode an image.

        ``max_wait``: seconds of waiting that a request is admitted to. ``clock``: seconds, never backwards.
        """
        self._concurrency, self._encode_concurrency = concurrency, encode_concurrency
        self._max_wait, self._expectations, self._clock = max_wait, expectations, clock
        self._throughput = Throughput(clock())
        self._waiting: list[_Ticket] = []  # in the order of arrival
        self._working: list[_Ticket] = []
        # When refused work is done, if it is sent again when it was told to be.
        self._retries_until = dict.fromkeys(Priority, 0.0)
        self._delays: dict[str, float] = {}  # request id → seconds that it was told to keep away; the oldest first
        self._now = 0.0  # virtual time: the tag of the request that began last
        self._last_tags: dict[tuple[Priority, bool, bool, str], float] = {}

    def stats(self, priority: Priority) -> QueueStats:
        waiting = [ticket for ticket in self._waiting if ticket.priority is priority and not ticket.ahead]
        age = self._clock() - waiting[0].since if waiting else 0.0
        cost = sum(ticket.cost for ticket in waiting)
        return QueueStats(self._held(priority), len(waiting), cost, age)

    def admitted(
        self, work: ExpectedWork, caller: str, priority: Priority, tell: Tell = unheard
    ) -> AbstractAsyncContextManager[Place]:
        """Run the block once admitted. See ``Gate``."""
        return self._admitted(work, caller, priority, tell)

    @asynccontextmanager
    async def _admitted(
        self, work: ExpectedWork, caller: str, priority: Priority, tell: Tell
    ) -> AsyncIterator[Place]:
        late, done = not work.ahead and self._late(work, priority), 0.0
        ticket = self._join(work, caller, priority, late=late, tell=tell)
        try:
            await ticket.turn
            yield ticket
            done = ticket.cost
        finally:
            self._leave(ticket, done)

    def _late(self, work: ExpectedWork, priority: Priority) -> bool:
        """Whether it waits longer than others may, as it was told to. One that can begin at once never does.

        Raises:
            Exhausted: it would wait too long.
        """
        encodes, promised = work.encodes > 0, self._delays.pop(request_context.request_id(), 0.0)
        before = self._work_before(priority, encodes, late=False)
        if not before and self._free(priority, encodes):
            return False
        cost, rate, time_left = self._expectations.cost(work), self._throughput.rate, request_context.remaining()
        left = self._left(rate, encodes)
        wait = (left + before) / rate
        late = wait > self._max_wait[priority]
        if late:
            wait = (left + self._work_before(priority, encodes, late=True)) / rate
            if wait > promised:
                delay = self._retry_delay(wait, cost / rate, priority)
                self._remember(delay)
                raise Exhausted("the queue is full: the expected wait exceeds the limit", delay, Shed.QUEUE)
        retry = min(max(wait, _RETRY_AT_LEAST), _RETRY_AT_MOST)
        if time_left is not None and wait + cost > time_left:
            raise Exhausted("the expected wait exceeds the deadline", retry, Shed.DEADLINE)
        return late

    def _work_before(self, priority: Priority, encodes: bool, *, late: bool) -> float:
        """Seconds of the work that waits and goes before a request that comes now."""
        batch = priority is Priority.BATCH
        return sum(
            ticket.cost
            for ticket in self._waiting
            if (batch or (ticket.priority is priority and (late or not ticket.late)))
            and (encodes or not ticket.encodes)
            and not ticket.ahead
        )

    def _retry_delay(self, wait: float, work: float, priority: Priority) -> float:
        """When to send it again: after what was refused before, or all of it would come at once and be
        refused again, but for one.
        """
        now = self._clock()
        begins = min(max(now + wait, self._retries_until[priority]), now + wait + _SPREAD_AT_MOST)
        self._retries_until[priority] = begins + work
        return min(max(begins - now, _RETRY_AT_LEAST), _RETRY_AT_MOST)

    def _remember(self, delay: float) -> None:
        """This request, by its id, was told to keep away for ``delay`` seconds."""
        if request := request_context.request_id():
            self._delays[request] = delay
            if len(self._delays) > _DELAYS_KEPT:
                del self._delays[next(iter(self._delays))]

    def _left(self, rate: float, encodes: bool) -> float:
        """Expected seconds of what is in progress that are still to be done, were all of it to share alike. A
        request without an encode waits for none where a place without one will be free.
        """
        now, share = self._clock(), rate / max(len(self._working), 1)
        before = self._working if encodes else [t for t in self._working if not t.encodes] or self._working
        return sum(max(0.0, ticket.cost - (now - ticket.since) * share) for ticket in before)

    def _join(self, work: ExpectedWork, caller: str, priority: Priority, *, late: bool, tell: Tell) -> _Ticket:
        cost, cost_of_rest = map(self._expectations.cost, (work, replace(work, encodes=0)))
        flow = (priority, late, work.ahead, caller)
        weighted = cost * (BACKGROUND_WEIGHT if late or priority is Priority.BATCH else 1)
        self._last_tags = {known: tag for known, tag in self._last_tags.items() if tag > self._now}
        tag = self._last_tags.get(flow, self._now) + weighted
        self._last_tags[flow] = tag
        time_left, now = request_context.remaining(), self._clock()
        must_end = None if time_left is None else now + time_left
        encodes, freed = work.encodes > 0, lambda: self._let_in(self._clock())
        ticket = _Ticket(
            caller, priority, encodes, late, work.ahead, cost, cost_of_rest, tag, now, must_end, tell, freed
        )
        self._waiting.append(ticket)
        self._let_in(now)
        return ticket

    def _leave(self, ticket: _Ticket, done: float) -> None:
        """The work is done, or was given up, perhaps before it began."""
        now = self._clock()
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif ticket in self._working:
            self._throughput.tick(now, busy=True, done=done)
            self._working.remove(ticket)
        elif not ticket.turn.cancelled():
            ticket.turn.exception()  # counts as seen, even where a cancellation came with it
        self._let_in(now)

    def _let_in(self, now: float) -> None:
        """Start the next requests that may begin; refuse one whose deadline is too near by now."""
        while ticket := self._next():
            self._waiting.remove(ticket)
            if ticket.since < now and ticket.must_end is not None and now + ticket.cost > ticket.must_end:
                late = Exhausted("too little of the deadline is left to begin", _RETRY_AT_LEAST, Shed.DEADLINE)
                ticket.turn.set_exception(late)
                continue
            self._throughput.tick(now, busy=bool(self._working))
            ticket.since, self._now = now, max(self._now, ticket.tag)
            self._working.append(ticket)
            ticket.turn.set_result(None)
        if not self._waiting and not self._working:
            self._now = 0.0
            self._last_tags.clear()
        self._tell_places()

    def _next(self) -> _Ticket | None:
        """The next that may begin. Work ahead comes last, and of a caller's the newest first: when more comes than
        can be done, some is done before its question comes, instead of all too late.
        """
        found = min(filter(self._may_begin, self._waiting), key=lambda t: (t.ahead, t.tag), default=None)
        if found is None or not found.ahead:
            return found
        of_caller = [t for t in self._waiting if t.ahead and t.caller == found.caller and self._may_begin(t)]
        newest = of_caller[-1]  # they stand in the order of arrival
        found.tag, newest.tag = newest.tag, found.tag
        return newest

    def _tell_places(self) -> None:
        """Those that wait hear of their place, where they listen."""
        if all(ticket.tell is unheard for ticket in self._waiting):
            return
        rate = self._throughput.rate
        before = self._left(rate, encodes=True)
        asked = sorted((ticket for ticket in self._waiting if not ticket.ahead), key=lambda ticket: ticket.tag)
        for position, ticket in enumerate(asked):
            ticket.tell(Progress(WorkStage.QUEUED, position, before / rate))
            before += ticket.cost

    def _may_begin(self, ticket: _Ticket) -> bool:
        return self._free(ticket.priority, ticket.encodes) and not ticket.turn.done()

    def _free(self, priority: Priority, encodes: bool) -> bool:
        if len(self._working) >= self._concurrency:
            return False
        encoding = [ticket.priority for ticket in self._working if ticket.encodes]
        if encodes and len(encoding) >= self._encode_concurrency:
            return False
        if priority is Priority.INTERACTIVE:
            return True
        if encodes and encoding.count(priority) >= max(1, self._encode_concurrency - 1):
            return False
        return self._held(priority) < max(1, self._concurrency // 2)

    def _held(self, priority: Priority) -> int:
        return sum(ticket.priority is priority for ticket in self._working)
