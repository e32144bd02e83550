"""Waiting for work to end, come what may.

Knows asyncio's cancellation. Does not know what the work is.
"""

from __future__ import annotations

import asyncio
from typing import Any


async def settled(future: asyncio.Future[Any]) -> None:
    """Return when ``future`` is done, however often the waiting task is cancelled meanwhile.

    For the end of a cancelled request: the caller re-raises its own CancelledError afterwards. The
    future's result or error is left unread, and counts as seen.
    """
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue  # already on the way out: what still runs must not outlive this call
    if not future.cancelled():
        future.exception()
