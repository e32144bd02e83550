"""One item asked of the service, and the rows that say what came of it.

Knows how a dialogue is asked and what an error of the service means for an item. Does not know files, schedules,
or what is done with rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from mediround import rle
from mediround._rounds import DialogueCorrection, Priority, Round
from mediround.aio import AsyncClient
from mediround.annotate.items import Item
from mediround.annotate.loading import LoadedItem
from mediround.annotate.rows import Row
from mediround.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    MediRoundError,
    NotFound,
    ResourceExhausted,
    SessionClosed,
    Unavailable,
)
from mediround.masks import Bits
from mediround.results import RoundResult
from mediround.templates import ask_async

ItemStatus: TypeAlias = Literal["ok", "failed", "busy"]
"""``busy``: nothing is wrong with the item; it must be asked again after ``Outcome.wait`` seconds."""

PASSING = (ResourceExhausted, Unavailable, DeadlineExceeded, NotFound, SessionClosed)
"""Of the service, not of the item. A session is gone when the service was started anew."""
_LEAST_WAIT = 0.05


@dataclass(frozen=True, slots=True)
class Asking:
    """How a run's items are asked.

    Attributes:
        run_key: of the run.
        correction: which masks the judge may have corrected.
        threshold: a score at most this is corrected.
        priority: ``batch`` lets interactive requests go first.
        timeout: seconds of one item, all its calls together.
        near_zero: outcomes say which pixels' logits lie at most this far from 0; None: they do not.
    """

    run_key: str
    correction: DialogueCorrection
    threshold: float
    priority: Priority = "batch"
    timeout: float = 300.0
    near_zero: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one item.

    Attributes:
        item_id: the item.
        status: see ``ItemStatus``.
        rows: all of the item's; none of a busy one.
        code: why it failed, or why it waits; empty where it is ok.
        wait: seconds after which it may be asked again.
        named: whether the service named them.
        near_zero: of each round, bool (H, W); none where ``Asking`` does not ask for it.
    """

    item_id: str
    status: ItemStatus
    rows: tuple[Row, ...] = ()
    code: str = ""
    wait: float = 0.0
    named: bool = False
    near_zero: tuple[Bits | None, ...] = ()


async def annotate(client: AsyncClient, item: Item, loaded: LoadedItem, asking: Asking) -> Outcome:
    """Ask an item's dialogue. Raises nothing for a fault of the item.

    Raises:
        AccessDenied: the service refuses this caller.
        Cancelled: the client was closed.
    """
    try:
        async with asyncio.timeout(asking.timeout):  # of all; gRPC tells the server of each call's
            results = await _results(client, rounds_of(item, loaded), loaded, asking)
    except TimeoutError:
        return busy(item, DeadlineExceeded("the item took longer than it may"))
    except (Cancelled, AccessDenied):  # no item would fare better
        raise
    except PASSING as error:
        return busy(item, error)
    except MediRoundError as error:
        return failed(item, asking.run_key, code_of(error), str(error), request_id=error.request_id or "")
    except Exception as error:  # bytes of an archive must not end a run of days
        words = f"the item cannot be asked ({type(error).__name__}); please report it"
        return failed(item, asking.run_key, "UNEXPECTED", words)
    asked = () if asking.near_zero is None else results
    near_zero = tuple(None if each is None else each.near_zero for each in asked)
    return Outcome(item.item_id, "ok", _rows(item, asking.run_key, results), near_zero=near_zero)


async def _results(
    client: AsyncClient, rounds: Sequence[Round], loaded: LoadedItem, asking: Asking
) -> Sequence[RoundResult | None]:
    opening = client.open(
        loaded.image,
        frame=loaded.frame,
        window=loaded.window,
        priority=asking.priority,
        timeout=asking.timeout,
        retries=0,
    )
    async with opening as session:
        return await ask_async(
            session,
            rounds,
            correction=asking.correction,
            threshold=asking.threshold,
            priority=asking.priority,
            near_zero=asking.near_zero,
            timeout=asking.timeout,
            retries=0,
        )


def rounds_of(item: Item, loaded: LoadedItem) -> list[Round]:
    """The item's dialogue as the client asks it, its given masks filled in."""
    return [
        Round(
            each.question,
            loaded.references.get(number, each.refer_to),
            "forced" if each.answer is not None else each.mode,
            each.answer,
        )
        for number, each in enumerate(item.questions)
    ]


def failed(item: Item, run_key: str, code: str, words: str, *, request_id: str = "") -> Outcome:
    """The outcome of an item that is not asked again: every row says why."""
    rows = tuple(
        replace(row, status="failed", error_code=code, error=words, request_id=request_id)
        for row in blank_rows(item, run_key)
    )
    return Outcome(item.item_id, "failed", rows, code)


def busy(item: Item, error: MediRoundError) -> Outcome:
    """The outcome of an item that must be asked again, after one of ``PASSING``."""
    wait = max(getattr(error, "retry_after", 1.0), _LEAST_WAIT)
    named = bool(getattr(error, "not_begun", False))  # a refusal names it, a broken call does not
    return Outcome(item.item_id, "busy", code=code_of(error), wait=wait, named=named)


def code_of(error: MediRoundError) -> str:
    """The service's own word for why, or the kind of error as gRPC writes it."""
    return error.reason or _upper(type(error).__name__)


def blank_rows(item: Item, run_key: str) -> list[Row]:
    """A row a round, of what is known before it is asked."""
    row = Row(
        item_id=item.item_id,
        image_id=item.image_id,
        run_key=run_key,
        round=0,
        rounds=len(item.questions),
        name="",
        label="",
        question="",
        refer_to=None,
        reference="",
        status="not_asked",
        finished=datetime.now(UTC),
    )
    return [
        replace(
            row,
            round=number,
            name=each.name,
            label=each.label,
            question=each.question,
            refer_to=each.refer_to,
            reference="given" if each.reference else "" if each.refer_to is None else "round",
        )
        for number, each in enumerate(item.questions)
    ] or [row]


def _rows(item: Item, run_key: str, results: Sequence[RoundResult | None]) -> tuple[Row, ...]:
    known = blank_rows(item, run_key)
    return tuple(
        row if result is None else _answered(row, result) for row, result in zip(known, results, strict=True)
    )


def _answered(row: Row, result: RoundResult) -> Row:
    mask, spent = result.mask, result.timings
    x_min, y_min, x_max, y_max = (None,) * 4 if result.box is None else astuple(result.box)
    return replace(
        row,
        status="no_mask" if mask is None else "mask",
        answer=result.answer,
        score=result.score,
        seg_probability=result.seg_probability,
        corrected=result.corrected,
        area=result.area,
        x_min=x_min,
        y_min=y_min,
        x_max=x_max,
        y_max=y_max,
        height=0 if mask is None else mask.shape[0],
        width=0 if mask is None else mask.shape[1],
        counts=None if mask is None else rle.encode(mask).decode(),
        mask_digest=result.mask_digest,
        wave=result.cache.wave,
        seconds=spent.total,
        seconds_queue=spent.queue,
        seconds_encode=spent.encode,
        seconds_language=spent.language,
        seconds_decode=spent.decode,
        window="" if result.pixels is None else result.pixels.window,
        model_digest=result.model_digest,
        engine_digest=result.engine_digest,
        request_id=result.request_id,
    )


def _upper(name: str) -> str:
    return "".join(f"_{each}" if each.isupper() else each for each in name).strip("_").upper()
