"""What every cache of bytes is made of: the budget, the order of use, and what is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.runtime.cache import ByteLru
from serving.stats import CacheStats

BUDGET = 10


def words(*entries: str, budget: int = BUDGET) -> ByteLru[str, str]:
    """A cache of words under their first letter, put in this order."""
    cache: ByteLru[str, str] = ByteLru(budget, len)
    for entry in entries:
        cache.put(entry[0], entry)
    return cache


def held(cache: ByteLru[str, str]) -> dict[str, str]:
    """All entries, the least recently used first; the cache is empty afterwards."""
    found = {}
    while oldest := cache.oldest():
        found[oldest[0]] = oldest[1]
        cache.drop(oldest[0])
    assert cache.nbytes == 0
    return found


def test_the_least_recently_used_is_evicted_until_the_rest_fits() -> None:
    cache = words("aaaa", "bbb", "ccc")
    assert cache.get("a") == "aaaa"
    cache.put("d", "dddd")
    assert cache.stats == CacheStats(hits=0, misses=0, evictions=2, nbytes=8)
    assert held(cache) == {"a": "aaaa", "d": "dddd"}


def test_to_look_for_an_entry_without_reading_it_is_no_use_of_it() -> None:
    cache = words("aaaa", "bbb", "ccc")
    assert "a" in cache
    assert cache.oldest() == ("a", "aaaa")
    cache.put("d", "d")
    assert "a" not in cache


def test_a_key_has_one_entry_the_last() -> None:
    cache = words("aaaa", "bbb")
    cache.put("a", "a")
    assert cache.stats == CacheStats(hits=0, misses=0, evictions=0, nbytes=4)
    assert list(held(cache).items()) == [("b", "bbb"), ("a", "a")]


def test_what_is_larger_than_the_budget_is_not_held_and_evicts_nothing() -> None:
    cache = words("aaaa", "bbb", "c" * (BUDGET + 1))
    assert cache.get("c") is None
    assert (cache.nbytes, cache.stats.evictions) == (7, 0)
    cache.put("a", "a" * (BUDGET + 1))
    assert held(cache) == {"b": "bbb"}
    assert held(words("a" * BUDGET)) == {"a": "a" * BUDGET}
    assert held(words("a", budget=0)) == {}


def test_what_is_dropped_is_gone_and_is_no_eviction() -> None:
    cache = words("aaaa", "bbb")
    cache.drop("a")
    cache.drop("a")
    assert cache.stats == CacheStats(hits=0, misses=0, evictions=0, nbytes=3)
    assert cache.get("a") is None


def test_hits_and_misses_are_as_its_owner_counts_them() -> None:
    cache = words("aaaa")
    for hit in (True, False, True):
        cache.count(hit=hit)
    cache.get("a")
    cache.get("b")
    assert cache.stats == CacheStats(hits=2, misses=1, evictions=0, nbytes=4)


STEPS = st.lists(st.tuples(st.sampled_from(["put", "get", "drop"]), st.sampled_from("abcd"), st.integers(0, 12)))


@given(STEPS)
def test_it_does_as_a_list_in_the_order_of_use_does(steps: list[tuple[str, str, int]]) -> None:
    cache, model = words(), dict[str, str]()  # the least recently used first
    for step, key, size in steps:
        before = model.pop(key, None)
        if step == "drop":
            cache.drop(key)
        elif step == "get":
            assert cache.get(key) == before
            model |= {} if before is None else {key: before}
        else:
            cache.put(key, key * size)
            model |= {key: key * size} if size <= BUDGET else {}
        while sum(map(len, model.values())) > BUDGET:
            del model[next(iter(model))]
        assert cache.nbytes == sum(map(len, model.values()))
    assert list(held(cache).items()) == list(model.items())
