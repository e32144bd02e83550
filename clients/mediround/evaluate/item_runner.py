"""One item through the service: its rounds asked, its masks compared.

Knows the client, policies, and when to ask again. Does not know files or reports.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing

from mediround import rle
from mediround._rounds import LiveCorrection, Round
from mediround.aio import AsyncClient
from mediround.aio_session import AsyncSession
from mediround.errors import NotFound, ProtocolMismatch, ResourceExhausted, Unavailable
from mediround.evaluate.data import Bits, Item
from mediround.evaluate.ledger import ItemRecord, RoundRecord, Run, RunError
from mediround.evaluate.metrics import overlap
from mediround.medseg import AskedRound
from mediround.results import RoundResult


class ItemRunner:
    """Asks items of one server, and asks again where the server says that it is worth it."""

    def __init__(self, client: AsyncClient, run: Run, attempts: int) -> None:
        self._client, self._run, self._attempts = client, run, attempts
        # Items on one image wait for each other's upload, so that it is sent once.
        self._uploads: defaultdict[bytes, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ask(self, index: int, item: Item) -> ItemRecord:
        """Raises MediRoundError when the item fails, RunError when the model is no longer the run's."""
        for attempt in range(self._attempts - 1):
            try:
                return await self._ask(index, item)
            except (ResourceExhausted, Unavailable, NotFound) as busy:  # NotFound: the server forgot the session
                await asyncio.sleep(getattr(busy, "retry_after", 1.0) * 2**attempt)
        return await self._ask(index, item)

    async def _ask(self, index: int, item: Item) -> ItemRecord:
        async with self._uploads[item.image_digest]:
            session = await self._client.open(item.image)
        async with session:
            if session.opening.model_digest != self._run.model_digest:
                raise RunError("the server's model changed during the run; run again with another --out")
            if (session.opening.height, session.opening.width) != item.targets[0].shape:
                raise ProtocolMismatch("the server reads the image in another size than its file says")
            asked = _given if self._run.answers == "given" else _free
            results = await asked(session, item.dialogue.rounds, self._run)
        self._check_engines(results)
        rounds = zip(results, item.targets, strict=True)
        return ItemRecord(item.key, index, tuple(_record(result, target) for result, target in rounds))

    def _check_engines(self, results: Sequence[RoundResult | None]) -> None:
        known = {record.digest for record in self._run.engine_records}
        if known and not {result.engine_digest for result in results if result} <= known:
            raise RunError("the server's engines changed during the run; run again with another --out")


async def _given(session: AsyncSession, asked: Sequence[AskedRound], run: Run) -> list[RoundResult | None]:
    """The whole dialogue with the data set's words, in waves."""
    rounds = [Round(one.question, one.refer_to, "forced", one.answer) for one in asked]
    async with aclosing(session.segment(rounds, correction=run.policy)) as results:
        return [result async for result in results]


async def _free(session: AsyncSession, asked: Sequence[AskedRound], run: Run) -> list[RoundResult | None]:
    """Round by round, in the model's words; None where the round referred to got no mask."""
    referred = {one.refer_to for one in asked}
    results: list[RoundResult | None] = []
    for number, one in enumerate(asked):
        earlier = None if one.refer_to is None else results[one.refer_to]
        if one.refer_to is not None and (earlier is None or earlier.mask is None):
            results.append(None)
            continue
        judged = run.policy == "always" or (run.policy == "referenced" and number in referred)
        correction: LiveCorrection = "always" if judged else "off"
        results.append(await session.ask(one.question, refer_to=earlier, mode="free", correction=correction))
    return results


def _record(result: RoundResult | None, target: Bits) -> RoundRecord:
    mask = result.mask if result else None
    height, width = target.shape
    return RoundRecord(
        status="not_asked" if result is None else "no_mask" if mask is None else "mask",
        answer=result.answer if result else "",
        score=result.score if result else None,
        corrected=bool(result and result.corrected),
        height=height,
        width=width,
        overlap=overlap(mask, target),
        counts=None if mask is None else rle.encode(mask).decode(),
    )
