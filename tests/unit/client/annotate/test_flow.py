"""How fast items are begun, and when a service that is gone is asked again."""

import asyncio
from pathlib import Path

import pytest

from mediround import ResourceExhausted, Unavailable
from mediround.aio import AsyncClient
from mediround.annotate.annotating import Asking, Outcome
from mediround.annotate.engines import asker as module
from mediround.annotate.engines.asker import Asker
from mediround.annotate.engines.interface import RunOptions
from mediround.annotate.flow import AdaptiveLimit, ByteBudget, Pace, backoff
from mediround.annotate.items import Question
from mediround.annotate.job import Job, Run, RunIdentity
from mediround.annotate.loading import LoadedItem, load
from mediround.testing import DESCRIPTION, Script, serve
from tests.unit.client.annotate.items import an_item
from tests.unit.client.annotate.test_local_engine import a_picture


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Job.begin(tmp_path / "job").take_up(RunIdentity.of(DESCRIPTION, "referenced"))


def test_a_rate_counts_rounds() -> None:
    pace = Pace(2.0, None, lambda: 0.0)
    assert pace.wait(100.0, 6) == (0.0, "")
    assert pace.wait(100.0, 6) == (0.0, "")  # one item's worth was not used before
    assert pace.wait(101.0, 1) == (2.0, "rate")
    assert pace.wait(103.0, 0) == pace.wait(103.0, 1) == (0.0, "")
    assert pace.wait(103.0, 1) == (0.5, "rate")


async def test_one_that_is_alone_has_nothing_beside_it_and_is_not_kept_waiting_by_what_comes_later() -> None:
    limit = AdaptiveLimit(4)
    await limit.take()
    given_up, alone = (asyncio.create_task(limit.take(alone=True)) for _ in range(2))
    later = asyncio.create_task(limit.take())
    await asyncio.sleep(0.01)
    given_up.cancel()
    await limit.give_back(refused=False)
    await alone
    await asyncio.sleep(0.01)
    assert (limit.held, later.done()) == (1, False)
    await limit.give_back(refused=False, alone=True)
    await later
    assert limit.held == 1


async def test_what_several_hold_in_common_counts_once_and_until_the_last_gives_it_back() -> None:
    budget = ByteBudget(10)
    for _ in range(3):
        await budget.take(8, "an object's frames")
    another = asyncio.create_task(budget.take(8))
    for _ in range(3):
        await asyncio.sleep(0)
        assert not another.done()
        await budget.give_back(8, "an object's frames")
    await another
    alone = asyncio.create_task(budget.take(8, "an object's frames"))
    await asyncio.sleep(0)
    assert not alone.done()
    await budget.give_back(8)
    await alone


def test_a_wait_doubles_up_to_a_bound() -> None:
    assert [backoff(tries) for tries in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff(10_000) == 30


def waits(replies: list[Outcome], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that an item waits between these replies."""
    left, waited = iter(replies), []

    async def replied(*_: object) -> Outcome:
        return next(left)

    async def stops_within(seconds: float) -> bool:
        waited.append(seconds)
        return False

    async def asked() -> None:
        item = an_item(tmp_path / "1.png", a_picture(8), (Question("one", "", "One."),))

        async def loading() -> LoadedItem:
            return load(item)

        options = RunOptions("localhost:1", Asking(run.key, "referenced", 0.5))
        async with AsyncClient(options.server) as client:
            outcome = await Asker(client, run, options, stops_within=stops_within).finished(item, loading())
        assert outcome == replies[-1]

    monkeypatch.setattr(module, "annotate", replied)
    asyncio.run(asked())
    return waited


def test_a_service_that_names_no_time_is_asked_ever_more_seldom(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = [Outcome("i", "busy", code="UNAVAILABLE", wait=1.0)] * 7
    busy = Outcome("i", "busy", code="RESOURCE_EXHAUSTED", wait=0.2, named=True)
    waited = waits([*gone, busy, gone[0], Outcome("i", "ok")], run, tmp_path, monkeypatch)
    for seconds, least in zip(waited, [1, 2, 4, 8, 16, 30, 30, 0.2, 1], strict=True):
        assert least <= seconds <= 1.5 * least
    assert len(set(waited)) == len(waited)  # a part of each is drawn


@pytest.mark.parametrize(
    ("refusal", "named"),
    [
        (Unavailable("starting", retry_after=7.0), True),
        (ResourceExhausted("full", retry_after=7.0), True),
        (None, False),
    ],
)
def test_only_a_refusal_names_a_time(
    refusal: Unavailable | ResourceExhausted | None, named: bool, run: Run, tmp_path: Path
) -> None:
    item = an_item(tmp_path / "1.png", a_picture(8), (Question("one", "", "One."),))

    async def asked(server: str) -> Outcome:
        async with AsyncClient(server, retries=0) as client:
            return await module.annotate(client, item, load(item), Asking(run.key, "referenced", 0.5))

    with serve(Script({"One.": refusal} if refusal else {})) as server:
        address = server.address
        outcome = asyncio.run(asked(address)) if refusal else None
    outcome = outcome or asyncio.run(asked(address))  # nobody listens there any more
    assert (outcome.status, outcome.named) == ("busy", named)
    assert outcome.wait == (7.0 if named else 1.0)
