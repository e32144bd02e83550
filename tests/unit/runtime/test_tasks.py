"""Work that goes on while nobody takes what it yields."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from serving.runtime.tasks import ahead


class Source:
    def __init__(self, items: int, error: Exception | None = None) -> None:
        self.items, self.error, self.yielded, self.closed = items, error, 0, False

    async def run(self) -> AsyncGenerator[int]:
        try:
            for item in range(self.items):
                await asyncio.sleep(0)
                self.yielded += 1
                yield item
            if self.error:
                raise self.error
        finally:
            self.closed = True


async def test_the_source_ends_before_anything_but_the_first_is_taken() -> None:
    source = Source(5)
    items = ahead(source.run())
    assert await anext(items) == 0
    async with asyncio.timeout(5):
        while not source.closed:  # noqa: ASYNC110  # as seen from outside
            await asyncio.sleep(0)
    assert [item async for item in items] == [1, 2, 3, 4]


async def test_an_error_comes_after_all_that_was_yielded() -> None:
    items, taken = ahead(Source(2, ValueError("late")).run()), []
    with pytest.raises(ValueError, match="late"):
        async for item in items:
            taken.append(item)  # noqa: PERF401  # what came before the error is kept
    assert taken == [0, 1]


async def test_closing_closes_the_source() -> None:
    source = Source(10**9)
    items = ahead(source.run())
    assert await anext(items) == 0
    await items.aclose()
    assert source.closed
    assert source.yielded < 1000
