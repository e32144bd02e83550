"""The service as a run needs it: the model that the run was planned for, and the records of what computes.

Knows descriptions and ``engines.json``. Does not know schedules.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from mediround._records import EngineRecord, stored_engine_record
from mediround.aio import AsyncClient
from mediround.annotate.annotating import PASSING, Outcome, busy
from mediround.annotate.errors import JobError, OtherRun
from mediround.annotate.files import locked, write_atomic
from mediround.annotate.items import Item
from mediround.annotate.job import Run
from mediround.errors import MediRoundError

RECORDS = "engines.json"
_READY = 600.0
"""Seconds that a service may take to start."""


class ServedRun:
    """Checks that what comes back is the run's; keeps the engine records that results name. Raises JobError: those
    that are kept cannot be read.
    """

    def __init__(self, client: AsyncClient, run: Run) -> None:
        self._client, self._run = client, run
        self._path = run.folder / RECORDS
        self._records: dict[str, object] = _held(self._path)

    async def begin(self) -> None:
        """Wait for the service, and keep what it says of itself.

        Raises:
            OtherRun: it has another model, or this client another rule of preprocessing.
            MediRoundError: it cannot be reached, or is none.
        """
        self._run.check_rule()
        await self._client.wait_until_ready(_READY)
        await self._describe()

    async def check(self, outcome: Outcome) -> None:
        """Of an item that is answered. Raises OtherRun: another model did, so that it must not be kept."""
        for row in outcome.rows:
            if row.model_digest:
                self._must_be_ours(row.model_digest)
            if row.engine_digest and row.engine_digest not in self._records:
                self._records[row.engine_digest] = None  # asked for once: an earlier engine's is not told any more
                await self._describe()

    async def confirmed(self, item: Item, refused: Outcome) -> Outcome:
        """The same of an item that was refused, since a refusal names no model; busy: nobody answers now. Raises
        OtherRun.
        """
        try:
            served = await self._client.describe()
        except PASSING as error:
            return busy(item, error)
        self._must_be_ours(served.model_digest)
        return refused

    async def _describe(self) -> None:
        try:
            served = await self._client.describe()
        except MediRoundError:
            if not self._records:
                raise
            return
        self._must_be_ours(served.model_digest)
        self._keep(served.engine_records)

    def _must_be_ours(self, model_digest: str) -> None:
        if model_digest != self._run.identity.model_digest:
            raise _other(self._run, model_digest)

    def _keep(self, records: tuple[EngineRecord, ...]) -> None:
        """Beside what other processes of the run keep."""
        self._records |= {record.digest: asdict(record) for record in records}
        with locked(self._path.with_suffix(".lock"), wait=True):
            held = _held(self._path)
            known = {digest: record or held.get(digest) for digest, record in self._records.items()}
            if held | known != held:
                write_atomic(self._path, (json.dumps(held | known, indent=1) + "\n").encode())


def engine_records(run: Run) -> dict[str, EngineRecord]:
    """Those that the run's results name, by digest, as far as they were told.

    Raises:
        JobError: the file is damaged.
    """
    found = {}
    for digest, values in _held(run.folder / RECORDS).items():
        if isinstance(values, dict):
            with suppress(KeyError, TypeError):
                found[digest] = stored_engine_record(values)
    return found


def _other(run: Run, digest: str) -> OtherRun:
    words = f"the run is of model {run.identity.model_digest[:12]}, and the server has {digest[:12]}"
    return OtherRun(f"{words}: begin another run with --new-run, or serve the model that it was planned for")


def _held(path: Path) -> dict[str, object]:
    """Raises JobError: it is cut off or damaged, and must not be written over: records are told once."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        words = "cannot be read; restore it, or move it away: what earlier engines were is then not known"
        raise JobError(f"{path.name}: {words}")
    return found
