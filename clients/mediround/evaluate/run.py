"""A whole run: items through the service, a bounded number at a time, and the report of them.

Knows the order of work. Does not know how an item is asked, scored, kept or shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mediround._description import ServerDescription
from mediround._rounds import DialogueCorrection
from mediround._tls import Tls
from mediround.aio import AsyncClient
from mediround.errors import MediRoundError, Unavailable
from mediround.evaluate import ledger, plots, report
from mediround.evaluate.data import Item, PictureError, PictureLimits, load
from mediround.evaluate.item_runner import ItemRunner
from mediround.evaluate.ledger import Answers, Ledger, Run, RunError
from mediround.evaluate.report import EvaluationReport, Failure
from mediround.medseg import DataError, parse, read_items

Progress = Callable[[int, int, int], None]
"""Told of items: those done (failed ones included), all, and those failed."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a data set is asked.

    Attributes:
        policy: which rounds the judge may have corrected.
        answers: ``given``: the data set's words; ``free``: the model's own.
        concurrency: items under way at once.
        timeout: seconds that one call may take.
        attempts: times that a busy server is asked for one item; it is waited for twice as long each time.
    """

    policy: DialogueCorrection = "referenced"
    answers: Answers = "given"
    concurrency: int = 4
    timeout: float = 300.0
    attempts: int = 5


DEFAULTS = Options()


@dataclass(slots=True)
class _State:
    """What the workers share."""

    items: Sequence[object]
    data: Path
    root: Path
    limits: PictureLimits
    max_rounds: int
    asker: ItemRunner
    ledger: Ledger
    address: str
    progress: Progress | None
    keys: list[str | None] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    done: int = 0


async def evaluate_async(
    server: str,
    data: Path,
    root: Path,
    out: Path,
    options: Options = DEFAULTS,
    *,
    tls: Tls | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Replay a data set and write the report into ``out``; an earlier, interrupted run there goes on.

    Raises:
        RunError: the server cannot be reached, does not serve what was asked, or changed its model; or ``out``
            holds another run. What is finished is kept.
        DataError: ``data`` is no list of dialogues.
        InvalidArgument: ``server`` is no address, or ``options.timeout`` no time.
    """
    items = read_items(data)
    async with AsyncClient(server, tls=tls, timeout=options.timeout, retries=0) as client:
        described = await _described(client, server)
        run = _run(described, options)
        with Ledger(out / ledger.FILE, run) as kept:
            state = _State(
                items=items,
                data=data,
                root=root,
                limits=PictureLimits(described.limits.max_image_bytes, described.limits.max_image_pixels),
                max_rounds=described.limits.max_rounds,
                asker=ItemRunner(client, run, options.attempts),
                ledger=kept,
                address=server,
                progress=progress,
                keys=[None] * len(items),
            )
            await _work(state, options.concurrency)
    failures = sorted(state.failures, key=lambda failure: failure.item)
    made = report.summed_up(run, data.name, state.keys, kept.finished, failures)
    report.write(made, out)
    plots.draw(made, out)
    return made


async def _described(client: AsyncClient, server: str) -> ServerDescription:
    try:
        return await client.describe()
    except MediRoundError as error:
        raise RunError(f"{server}: {error}; is a server running there (make serve), is --server right?") from error


def _run(described: ServerDescription, options: Options) -> Run:
    mode = "forced" if options.answers == "given" else "free"
    if mode not in described.answer_modes:
        raise RunError(f"the server does not answer in mode {mode}: choose other --answers")
    return Run(
        policy=options.policy,
        answers=options.answers,
        model_name=described.model_name,
        model_version=described.model_version,
        model_digest=described.model_digest,
        threshold=round(described.threshold, 6),  # it crossed the wire as float32
        has_judge=described.has_judge,
        server_version=described.server_version,
        language_engine=described.language_engine,
        vision_engine=described.vision_engine,
        engine_records=tuple(sorted(described.engine_records, key=lambda record: record.digest)),
    )


async def _work(state: _State, concurrency: int) -> None:
    left = iter(range(len(state.items)))
    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(_worker(state, left))
    except* RunError as group:
        raise group.exceptions[0] from None


async def _worker(state: _State, left: Iterator[int]) -> None:
    for index in left:
        try:
            await _item(state, index)
        except PictureError as error:
            state.failures.append(Failure(index, error.file, str(error)))
        except DataError as error:
            state.failures.append(Failure(index, str(state.data), str(error)))
        except Unavailable as error:
            raise RunError(f"{state.address}: {error}; run again with the same --out to go on") from error
        except MediRoundError as error:
            state.failures.append(Failure(index, state.address, f"{type(error).__name__}: {error}"))
        state.done += 1
        if state.progress:
            state.progress(state.done, len(state.items), len(state.failures))


async def _item(state: _State, index: int) -> None:
    item = await asyncio.to_thread(_loaded, state, index)
    state.keys[index] = item.key
    if item.key not in state.ledger.finished:
        state.ledger.append(await state.asker.ask(index, item))


def _loaded(state: _State, index: int) -> Item:
    raw = state.items[index]
    dialogue = parse(raw)
    if len(dialogue.rounds) > state.max_rounds:
        raise DataError(f"holds {len(dialogue.rounds)} rounds; the server takes at most {state.max_rounds}")
    return load(raw, dialogue, state.root.resolve(), state.limits)
