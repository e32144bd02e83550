"""Images that callers may open again."""

from __future__ import annotations

import numpy as np

from serving.api.image_cache import ImageCache, UploadKey
from serving.domain import ContentAddress, SourceImage, TowerImage


def image(side: int = 10) -> SourceImage:
    """3 * side * side bytes, a third of them the tower's."""
    tower = TowerImage("digest", np.zeros((side, side), np.uint8))
    return SourceImage(np.zeros((side, side, 2), np.uint8), "key", tower)


def key(name: str, caller: str = "anna", form: str = "file") -> UploadKey:
    return UploadKey(caller, ContentAddress(form, name.encode()))


def uploads_of(max_bytes: int) -> ImageCache:
    return ImageCache(max_bytes, 60.0, lambda: 0.0)


def test_a_caller_reaches_its_own_alone() -> None:
    uploads = uploads_of(1000)
    held = image()
    uploads.put(key("a"), held)
    assert uploads.get(key("a")) is held
    assert uploads.get(key("a", caller="ben")) is None
    assert uploads.get(key("a", form="uint8 10x10x3")) is None
    assert uploads.get(key("b")) is None


def test_what_was_used_longest_ago_leaves_first() -> None:
    uploads = uploads_of(900)
    for name in "abc":
        uploads.put(key(name), image())
    uploads.get(key("a"))
    uploads.put(key("d"), image())
    assert [uploads.get(key(name)) is not None for name in "abcd"] == [True, False, True, True]
    assert uploads.nbytes == 900


def test_a_large_image_displaces_several() -> None:
    uploads = uploads_of(1300)
    for name in "abcd":
        uploads.put(key(name), image())
    uploads.put(key("e"), image(20))
    assert uploads.nbytes == 1200
    assert uploads.get(key("e")) is not None


def test_an_image_beyond_the_budget_displaces_nothing() -> None:
    uploads = uploads_of(900)
    uploads.put(key("a"), image())
    uploads.put(key("b"), image(20))
    assert uploads.get(key("a")) is not None
    assert uploads.get(key("b")) is None


def test_the_same_image_twice_counts_once() -> None:
    uploads = uploads_of(900)
    uploads.put(key("a"), image())
    uploads.put(key("a"), image())
    assert uploads.nbytes == 300


def test_what_nobody_asks_for_leaves_with_time() -> None:
    now = 0.0
    uploads = ImageCache(900, 60.0, lambda: now)
    uploads.put(key("a"), image())
    uploads.put(key("b"), image())
    now = 59.0
    assert uploads.get(key("a")) is not None
    now = 60.0
    assert uploads.get(key("b")) is None
    now = 119.0
    uploads.sweep()
    assert uploads.nbytes == 0
