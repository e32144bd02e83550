"""A full store of sessions: idle ones give way in order, those in use never; a refusal says when to come again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from serving.errors import Exhausted, NotFound
from serving.history.record import Session
from serving.stores.room import Budget
from serving.stores.sessions import MemorySessions
from tests.scripted.pictures import append, finished_round, session
from tests.unit.serving.manifests import manifest

MODEL = manifest()
FLOOR, IDLE = 60.0, 1800.0


class Store:
    """Three sessions fit, and so many bytes."""

    def __init__(self, max_bytes: int = 2**30, each: Budget | None = None) -> None:
        self.now = 1000.0
        self.held = MemorySessions(3, max_bytes, IDLE, lambda: self.now, give_way_after_s=FLOOR, each=each)

    async def open(
        self, name: str, caller: str = "anna", *, rounds: int = 1, side: int = 32, account: str = ""
    ) -> None:
        made = session(MODEL, name, caller, side)
        await self.held.create(replace(made, record=replace(made.record, account=account)))
        if rounds:
            async with self.held.exclusive(name, caller) as opened:
                await append(self.held, opened, [finished_round(MODEL, i) for i in range(rounds)])

    async def there(self, names: Sequence[str], caller: str = "anna") -> list[str]:
        found = []
        for name in names:
            try:
                async with self.held.exclusive(name, caller):
                    found.append(name)
            except NotFound:
                continue
        return found


async def test_the_longest_idle_gives_way_after_the_floor_and_not_before() -> None:
    store = Store()
    for name in "abc":
        await store.open(name)
        store.now += 1
    store.now = 1000.0 + FLOOR - 0.25
    with pytest.raises(Exhausted, match="3 sessions are open") as refused:
        await store.open("d")
    assert refused.value.retry_after == pytest.approx(0.25)
    store.now += refused.value.retry_after  # what was told is true
    await store.open("d")
    assert await store.there("abcd") == ["b", "c", "d"]


async def test_a_closed_session_takes_room_while_a_request_holds_it() -> None:
    """Else who asks and closes, again and again, fills memory with images that wait for their turn."""
    store = Store()
    for name in "abc":
        await store.open(name)
    async with store.held.exclusive("a", "anna"):
        nbytes = store.held.nbytes
        await store.held.close("a", "anna")
        assert (store.held.count, store.held.nbytes) == (2, nbytes)
        with pytest.raises(Exhausted, match="3 sessions are open"):
            await store.open("d")
    await store.open("d")
    for name in "bcd":
        await store.held.close(name, "anna")
    assert (store.held.count, store.held.nbytes) == (0, 0)


async def test_the_callers_own_give_way_before_others_that_were_idle_longer() -> None:
    store = Store()
    await store.open("others", "bert")
    store.now += 1
    await store.open("own")
    await store.open("other", "carl")
    store.now += 2 * FLOOR
    await store.open("new")
    assert await store.there(["own", "new"]) == ["new"]
    assert await store.there(["others"], "bert") == ["others"]
    await store.open("newer", "dora")  # has none of their own: the longest idle
    assert await store.there(["other"], "carl") == []


async def test_sessions_of_which_nothing_was_asked_give_way_to_their_own_caller_soon() -> None:
    store = Store()
    for name in "abc":
        await store.open(name, rounds=0)
    with pytest.raises(Exhausted) as refused:
        await store.open("d")
    assert refused.value.retry_after == pytest.approx(1.0)
    store.now += 1
    with pytest.raises(Exhausted) as refused:
        await store.open("d", "bert")
    assert refused.value.retry_after == pytest.approx(FLOOR - 1)
    await store.open("d")


async def test_of_callers_that_are_one_each_connection_has_its_own() -> None:
    store = Store()
    for name in "abc":
        await store.open(name, rounds=0, account="first")
    store.now += 1
    with pytest.raises(Exhausted) as refused:
        await store.open("d", account="second")
    assert refused.value.retry_after == pytest.approx(FLOOR - 1)
    await store.open("d", rounds=0, account="first")
    store.now += FLOOR
    async with store.held.exclusive("b", "anna"):
        await store.open("e", account="second")  # the longest idle, for it has none of its own
    store.now += 2 * FLOOR
    await store.open("f", account="second")  # and now it has
    assert await store.there("abcdef") == ["b", "d", "f"]


async def test_a_session_in_use_never_gives_way() -> None:
    store = Store()
    for name in "abc":
        await store.open(name)
    async with store.held.exclusive("a", "anna"), store.held.exclusive("b", "anna"):
        store.now += IDLE - 1
        await store.open("d")
        async with store.held.exclusive("d", "anna"):
            with pytest.raises(Exhausted):
                await store.open("e", "bert")
    assert await store.there("abcd") == ["a", "b", "d"]


async def test_bytes_make_sessions_give_way_and_none_in_vain() -> None:
    store = Store(max_bytes=2 * _bytes("x", 512))
    for name in "ab":
        await store.open(name, rounds=0, side=512)
    store.now += FLOOR
    async with store.held.exclusive("a", "anna"):
        with pytest.raises(Exhausted, match="all the memory"):
            await store.open("d", "bert", rounds=0, side=1024)
        assert store.held.count == 2, "room enough could not be made: none gave way"
        await store.open("d", "bert", rounds=0, side=512)
    assert await store.there("ab") == ["a"]


async def test_rounds_of_a_session_in_use_make_idle_ones_give_way() -> None:
    one = _bytes("x", 512)
    store = Store(max_bytes=2 * one + 1000)
    for name in "ab":
        await store.open(name, rounds=0, side=512)
    store.now += FLOOR
    async with store.held.exclusive("a", "anna") as held:
        await append(store.held, held, [finished_round(MODEL, i) for i in range(3)])
    assert await store.there("ab") == ["a"]


def _bytes(name: str, side: int) -> int:
    made: Session = session(MODEL, name, "anna", side)
    return made.image.nbytes


@pytest.mark.parametrize("account", [False, True], ids=["of callers", "of connections"])
async def test_nobodys_budget_is_taken_by_anothers_sessions(account: bool) -> None:
    store = Store(each=Budget(2, 2**30))

    async def opens(name: str, whose: str) -> None:
        await (store.open(name, "anonymous", account=whose) if account else store.open(name, whose))

    await opens("a", "anna")
    await opens("b", "anna")
    with pytest.raises(Exhausted, match="you have 2 open sessions, the most that this server gives one caller"):
        await opens("c", "anna")
    await opens("d", "bert")
    store.now += FLOOR
    await opens("e", "anna")  # in the place of her own, and of no other's
    assert await store.there(["a", "b", "d", "e"], "anonymous") == (["b", "d", "e"] if account else [])
    assert store.held.gave_way == 1


async def test_nobodys_bytes_are_taken_by_anothers_sessions() -> None:
    store = Store(each=Budget(3, 300_000))
    await store.open("a", side=256)
    with pytest.raises(Exhausted, match="your open sessions hold 300000 bytes"):
        await store.open("b", side=256)
    await store.open("b", "bert", side=256)
    async with store.held.exclusive("a", "anna") as held:
        with pytest.raises(Exhausted, match="your open sessions"):
            await append(store.held, held, [finished_round(MODEL, seed) for seed in range(100)])


async def test_nobody_is_looked_at_while_all_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round must not cost more the more sessions there are."""
    monkeypatch.setattr("serving.stores.sessions.giving_way", None)
    store = Store(each=Budget(2, 2**20))
    for name, caller in (("a", "anna"), ("b", "anna"), ("c", "berta")):
        await store.open(name, caller, rounds=2)
    with pytest.raises(TypeError):  # the next one does not fit
        await store.open("d", "carla")


async def test_what_is_counted_is_what_is_there() -> None:
    random = np.random.default_rng(0)
    store = Store(max_bytes=40_000, each=Budget(2, 30_000))
    for number in range(300):
        caller, account = random.choice(["anna", "berta"]), random.choice(["", "ward"])
        with suppress(Exhausted):
            await store.open(f"s{number}", caller, rounds=int(random.integers(3)), account=account)
        if random.random() < 0.3:
            with suppress(NotFound):
                await store.held.close(f"s{random.integers(number + 1)}", caller)
        store.now += float(random.integers(60))
        entries, taken = store.held._entries.values(), Counter[tuple[str, str]]()
        for entry in entries:
            taken[entry.session.record.payer] += entry.nbytes
        held = store.held._taken
        assert {payer: each.nbytes for payer, each in held._of.items()} == taken
        assert (held._sessions, held.nbytes) == (len(entries), taken.total())
