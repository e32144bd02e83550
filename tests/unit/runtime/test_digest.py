"""Digests over fields: no two lists of fields that differ have the same."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.runtime.digest import digest

FIELDS = st.lists(
    st.one_of(st.text("ab0\x00", max_size=4), st.binary(max_size=4), st.integers(-20, 20)), max_size=4
)


@settings(max_examples=500, deadline=None)
@given(FIELDS, FIELDS)
def test_other_fields_have_another_digest(left: list[str | bytes | int], right: list[str | bytes | int]) -> None:
    same = [(type(each), each) for each in left] == [(type(each), each) for each in right]
    assert (digest("kind", *left) == digest("kind", *right)) is same


def test_bytes_that_move_from_one_field_to_the_next() -> None:
    texts = ["round", "annaround", "s1", "s", "1", "", "a" * 9]
    pairs = {
        (left + right[:cut], right[cut:]) for left in texts for right in texts for cut in range(len(right) + 1)
    }
    made = {digest("request", *pair) for pair in pairs} | {digest("upload", *pair) for pair in pairs}
    assert len(made) == 2 * len(pairs)
    assert digest("k", "1") != digest("k", 1) != digest("k", b"1") != digest("k", "1")
