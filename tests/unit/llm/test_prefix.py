"""The prefix cache gives back what has the same content, and no more than its bytes allow."""

from __future__ import annotations

import numpy as np
import pytest

from serving.llm.prefix import DialogueKey, Prefix, PrefixCache, TokenKey

A, B, C, D = ("tenant", "a"), ("tenant", "b"), ("other tenant", "a"), ("other tenant", "b")
TOKEN_BYTES = 2 * 1 * 2 * 4 * 4 * 2
"""Keys and values of one token: 2 layers, 2 heads of 4, float32."""


def prefix(*tokens: TokenKey) -> Prefix:
    """Keys and values that tell the position and the token."""
    keys = np.zeros((2, 1, 2, len(tokens), 4), np.float32)
    for position, token in enumerate(tokens):
        keys[:, :, :, position] = hash(token) % 1000 + position
    return Prefix(tokens, keys, -keys)


def held(cache: PrefixCache, dialogue: DialogueKey, *tokens: TokenKey, limit: int = 100) -> tuple[TokenKey, ...]:
    found = cache.longest(dialogue, tokens, limit)
    if found is None:
        return ()
    expected = prefix(*found.tokens)
    assert np.array_equal(found.keys, expected.keys)
    assert np.array_equal(found.values, expected.values)
    assert found.keys.flags.c_contiguous
    return found.tokens


@pytest.fixture
def cache() -> PrefixCache:
    return PrefixCache(10 * TOKEN_BYTES)


def test_nothing_is_held_of_an_unknown_dialogue(cache: PrefixCache) -> None:
    cache.keep(A, prefix(1, 2))
    assert held(cache, B, 1, 2) == ()


@pytest.mark.parametrize(
    ("asked", "limit", "expected"),
    [
        ((1, 2, 3, 4, 5), 100, (1, 2, 3, 4)),
        ((1, 2, 3, 4), 100, (1, 2, 3, 4)),
        ((1, 2), 100, (1, 2)),
        ((1, 2, 9, 4), 100, (1, 2)),
        ((9, 2, 3, 4), 100, ()),
        ((1, 2, 3, 4, 5), 3, (1, 2, 3)),
        ((1, 2, 3, 4, 5), 0, ()),
    ],
)
def test_the_longest_common_beginning(
    cache: PrefixCache, asked: tuple[int, ...], limit: int, expected: tuple[int, ...]
) -> None:
    cache.keep(A, prefix(1, 2, 3, 4))
    assert held(cache, A, *asked, limit=limit) == expected


def test_contents_of_different_kinds_never_match(cache: PrefixCache) -> None:
    cache.keep(A, prefix(1, ("image", 0), ("image", 1), "crop", b"box"))
    assert held(cache, A, 1, ("image", 0), ("image", 1), "crop", b"box") == (
        *(1, ("image", 0), ("image", 1), "crop", b"box"),
    )
    assert held(cache, A, 1, ("image", 0), ("other", 1)) == (1, ("image", 0))
    assert held(cache, A, 1, ("image", 0), ("image", 1), "other") == (1, ("image", 0), ("image", 1))
    assert held(cache, A, 1, ("image", 0), ("image", 1), "crop", b"x")[-1] == "crop"


def test_a_dialogue_has_one_prefix_the_last(cache: PrefixCache) -> None:
    cache.keep(A, prefix(1, 2, 3))
    cache.keep(A, prefix(1, 7))
    assert held(cache, A, 1, 2, 3) == (1,)
    assert cache.nbytes == 2 * TOKEN_BYTES


def test_what_is_read_ahead_does_not_shorten_what_the_dialogue_has(cache: PrefixCache) -> None:
    cache.keep(A, prefix(1, 2, 3, 4))
    cache.keep(A, prefix(1, 2))
    assert held(cache, A, 1, 2, 3, 4) == (1, 2, 3, 4)
    cache.keep(B, prefix(1, 2))
    assert held(cache, B, 1, 2, 3, 4) == (1, 2)


def test_the_least_recently_used_is_given_up(cache: PrefixCache) -> None:
    for dialogue in (A, B, C):
        cache.keep(dialogue, prefix(1, 2, 3))
    assert cache.nbytes == 9 * TOKEN_BYTES
    assert held(cache, A, 1) == (1,)
    cache.keep(D, prefix(1, 2, 3))
    assert [held(cache, dialogue, 1) for dialogue in (A, B, C, D)] == [(1,), (), (1,), (1,)]
    assert cache.nbytes == 9 * TOKEN_BYTES


def test_one_that_is_too_large_is_not_kept_and_drives_nobody_out(cache: PrefixCache) -> None:
    cache.keep(A, prefix(1, 2))
    cache.keep(B, prefix(*range(11)))
    assert held(cache, A, 1) == (1,)
    assert held(cache, B, 0) == ()
    cache.keep(A, prefix(*range(11)))
    assert cache.nbytes == 0


def test_no_bytes_keep_nothing() -> None:
    cache = PrefixCache(0)
    cache.keep(A, prefix(1))
    assert held(cache, A, 1) == ()
    assert cache.nbytes == 0
