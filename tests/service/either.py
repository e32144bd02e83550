"""Both clients behind one form: each test of what they promise runs on the one that blocks and on the one that is
awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mediround import AsyncClient, Client, RoundResult, SessionSummary


class Blocking:
    """The client for threads, asked from a test's event loop."""

    def __init__(self, address: str, **options: Any) -> None:
        self.client = Client(address, **options)

    async def open(self, image: object, **options: Any) -> Any:
        return await asyncio.to_thread(self.client.open, image, **options)

    async def ask(self, session: Any, *asked: Any, **options: Any) -> RoundResult:
        return await asyncio.to_thread(session.ask, *asked, **options)

    async def segment(self, session: Any, rounds: Any, **options: Any) -> list[RoundResult]:
        return await asyncio.to_thread(lambda: list(session.segment(rounds, **options)))

    async def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client, name), *arguments, **options)

    async def of(self, session: Any, name: str, *arguments: Any, **options: Any) -> Any:
        """A method of a session."""
        return await asyncio.to_thread(getattr(session, name), *arguments, **options)

    async def listed(self) -> list[SessionSummary]:
        return await asyncio.to_thread(lambda: list(self.client.sessions()))

    async def use(self, session: Any) -> None:
        """Enter a session's block, and leave it."""

        def enter() -> None:
            with session:
                pass

        await asyncio.to_thread(enter)

    async def close(self, session: Any = None) -> None:
        await asyncio.to_thread((session or self.client).close)


class Awaited:
    """The client for asyncio."""

    def __init__(self, address: str, **options: Any) -> None:
        self.client = AsyncClient(address, **options)

    async def open(self, image: object, **options: Any) -> Any:
        return await self.client.open(image, **options)

    async def ask(self, session: Any, *asked: Any, **options: Any) -> RoundResult:
        return await session.ask(*asked, **options)

    async def segment(self, session: Any, rounds: Any, **options: Any) -> list[RoundResult]:
        return [result async for result in session.segment(rounds, **options)]

    async def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return await getattr(self.client, name)(*arguments, **options)

    async def of(self, session: Any, name: str, *arguments: Any, **options: Any) -> Any:
        return await getattr(session, name)(*arguments, **options)

    async def listed(self) -> list[SessionSummary]:
        return [each async for each in self.client.sessions()]

    async def use(self, session: Any) -> None:
        async with session:
            pass

    async def close(self, session: Any = None) -> None:
        await (session or self.client).close()


Either = Blocking | Awaited
Make = Callable[..., Either]
