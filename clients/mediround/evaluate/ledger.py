"""What a run has found so far, one line an item, so that an interrupted run goes on and two runs can be compared.

The first line says what was run: model, engines, settings. A later line holds one finished item under its key
(the item's content), with each mask as COCO run lengths. Knows the file. Does not know data sets or the service.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TextIO, TypeAlias

import numpy as np
import numpy.typing as npt

from mediround import rle
from mediround._records import EngineRecord, stored_engine_record
from mediround._rounds import DialogueCorrection
from mediround.evaluate.metrics import Overlap

FILE = "results.jsonl"

Answers: TypeAlias = Literal["given", "free"]
"""``given``: the data set's words, read at ``[SEG]``. ``free``: the model's own words, perhaps without a mask."""
Status: TypeAlias = Literal["mask", "no_mask", "not_asked"]
"""``not_asked``: the round refers to one that got no mask, so that the service could not be asked."""


class RunError(Exception):
    """A run cannot begin or go on; the message says what to change. What is finished stays in the ledger."""


@dataclass(frozen=True, slots=True)
class Run:
    """What decides a result besides the data. Results of different runs are never mixed.

    Attributes:
        policy: which rounds the judge may have corrected.
        answers: ``given``: the data set's words; ``free``: the model's own.
        model_name: the bundle's name.
        model_version: the bundle's version.
        model_digest: SHA-256 of the bundle's manifest, hex.
        threshold: a round whose score is at most this is corrected.
        has_judge: False: nothing is scored or corrected.
        server_version: of the serving software.
        language_engine: what runs the language half.
        vision_engine: what runs the vision half.
        engine_records: what computed it, whole; none of a server that does not tell.
    """

    policy: DialogueCorrection
    answers: Answers
    model_name: str
    model_version: str
    model_digest: str
    threshold: float
    has_judge: bool
    server_version: str
    language_engine: str
    vision_engine: str
    engine_records: tuple[EngineRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class RoundRecord:
    status: Status
    answer: str
    score: float | None
    corrected: bool
    height: int
    width: int
    overlap: Overlap
    counts: str | None
    """COCO run lengths of the mask; None without one, and where a ledger keeps figures alone."""

    def mask(self) -> npt.NDArray[np.bool_]:
        """(H, W); empty where the round got none. Raises MalformedRle."""
        if self.counts is None:
            return np.zeros((self.height, self.width), np.bool_)
        return rle.decode(self.counts.encode(), self.height, self.width)


@dataclass(frozen=True, slots=True)
class ItemRecord:
    key: str
    item: int
    """Index in the data set's list when it was asked."""
    rounds: tuple[RoundRecord, ...]


class Ledger:
    """The file of one run, open for more. Keeps finished items in memory without their masks."""

    def __init__(self, path: Path, run: Run) -> None:
        """Open or begin. Raises RunError when the file holds another run, or cannot be read as one."""
        self.finished: dict[str, ItemRecord] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _cut_torn_line(path)
            if path.exists() and path.stat().st_size:
                self._go_on(path, run)
                self._stream: TextIO = path.open("a")
            else:
                self._stream = path.open("w")
                self._write({"run": asdict(run)})
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror})") from error

    def append(self, record: ItemRecord) -> None:
        """Raises RunError when the file cannot be written, for example on a full disk."""
        try:
            self._write(asdict(record))
        except OSError as error:
            raise RunError(f"{self._stream.name}: cannot be written ({error.strerror})") from error
        self._keep(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def _go_on(self, path: Path, run: Run) -> None:
        earlier = read_run(path)
        if earlier != run:
            differ = [f.name for f in fields(Run) if getattr(earlier, f.name) != getattr(run, f.name)]
            raise RunError(f"{path}: holds a run with another {', '.join(differ)}; choose another --out")
        for record in read_records(path):
            self._keep(record)

    def _write(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._stream.flush()

    def _keep(self, record: ItemRecord) -> None:
        self.finished[record.key] = replace(record, rounds=tuple(replace(r, counts=None) for r in record.rounds))


def read_run(path: Path) -> Run:
    """What a ledger is about. Raises RunError when it is none."""
    with path.open() as lines:
        try:
            values = json.loads(lines.readline())["run"]
            records = tuple(stored_engine_record(each) for each in values.get("engine_records", ()))
            return Run(**{**values, "engine_records": records})
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}: does not begin with a run of this version; move it away") from error


def read_records(path: Path) -> Iterator[ItemRecord]:
    """The finished items, masks included. Raises RunError at a line that is none."""
    with path.open() as lines:
        next(lines, None)
        for number, line in enumerate(lines, start=2):
            try:
                yield _record(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                raise RunError(
                    f"{path}: line {number} is malformed; take it out, and its item runs again"
                ) from error


def _record(line: dict[str, Any]) -> ItemRecord:
    rounds = (RoundRecord(**{**found, "overlap": Overlap(**found["overlap"])}) for found in line["rounds"])
    return ItemRecord(line["key"], line["item"], tuple(rounds))


def _cut_torn_line(path: Path) -> None:
    """Drop what an interrupted run left of its last line; that item runs again."""
    with path.open("rb+") as stream:
        whole = sum(len(line) for line in stream if line.endswith(b"\n"))
        stream.truncate(whole)
