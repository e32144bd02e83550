"""Jobs that are made up, for tests of what reads them: a manifest and the rows of a run, without a server."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mediround import rle
from mediround.annotate import recording
from mediround.annotate.annotating import blank_rows
from mediround.annotate.errors import JobError
from mediround.annotate.index import write_part
from mediround.annotate.items import Item, Question, item_id
from mediround.annotate.job import Job, Run, RunIdentity
from mediround.annotate.manifest import write_manifest
from mediround.annotate.rows import Row
from mediround.masks import digest
from mediround.window import RULE

IDENTITY = RunIdentity("model", "1", "ab" * 32, RULE, "referenced", 0.5)
OTHER = replace(IDENTITY, model_version="2", model_digest="cd" * 32)
QUESTIONS = (
    Question("liver", "Liver", "Segment the liver.", answer="It is [SEG]."),
    Question("wall", "Wall", "Its wall.", refer_to=0, answer="It is [SEG]."),
)
SIDE = 16


def disc(radius: float, side: int = SIDE, centre: float | None = None) -> npt.NDArray[np.bool_]:
    """bool (side, side)."""
    middle = (side - 1) / 2 if centre is None else centre
    y, x = np.ogrid[:side, :side]
    return np.asarray((y - middle) ** 2 + (x - middle) ** 2 <= radius**2)


def png(values: npt.NDArray[np.uint8]) -> bytes:
    held = io.BytesIO()
    Image.fromarray(values).save(held, "PNG")
    return held.getvalue()


def flat_png(value: int) -> bytes:
    """8x8 pixels, all alike."""
    return png(np.full((8, 8), value, np.uint8))


def picture(folder: Path, number: int, questions: Sequence[Question] = QUESTIONS, side: int = SIDE) -> Item:
    """An item of a grey picture of its own, which is written."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{number}.png"
    content = png(np.full((side, side), number % 256, np.uint8))
    path.write_bytes(content + number.to_bytes(4))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    named = item_id(sha256, None, "", questions)
    return Item(named, sha256, "picture", path.as_uri(), tuple(questions), sha256=sha256, size=len(content) + 4)


def job_of(folder: Path, items: Sequence[Item], identity: RunIdentity = IDENTITY) -> tuple[Job, Run]:
    """A job of these items, and its run, without rows."""
    job = Job.begin(folder)
    write_manifest(job.manifest, items)
    job.keep_manifest()
    return job, job.take_up(identity, new=True)


def answered(item: Item, run: Run, masks: Sequence[npt.NDArray[np.bool_] | None], score: float = 0.8) -> list[Row]:
    """An item's rows, of these masks."""
    rows = blank_rows(item, run.key)
    return [_answered(row, run, mask, score) for row, mask in zip(rows, masks, strict=True)]


def failed(item: Item, run: Run, code: str = "UNREADABLE") -> list[Row]:
    words = "the file cannot be read"
    return [replace(row, status="failed", error_code=code, error=words) for row in blank_rows(item, run.key)]


def keep(run: Run, *items: Sequence[Row]) -> Path:
    """Written as one part of the index."""
    return write_part(run.index, [row for rows in items for row in rows])


def _answered(row: Row, run: Run, mask: npt.NDArray[np.bool_] | None, score: float) -> Row:
    row = replace(
        row,
        answer="It is [SEG]." if mask is not None else "Nothing is seen.",
        finished=datetime(2026, 1, 2, tzinfo=UTC),
        model_digest=run.identity.model_digest,
        wave=row.round,
    )
    if mask is None:
        return replace(row, status="no_mask")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    ends = [int(x) for x in (columns[0], rows[0], columns[-1], rows[-1])] if mask.any() else [None] * 4
    return replace(
        row,
        status="mask",
        score=score,
        area=int(mask.sum()),
        **dict(zip(("x_min", "y_min", "x_max", "y_max"), ends, strict=True)),
        height=mask.shape[0],
        width=mask.shape[1],
        counts=rle.encode(mask).decode(),
        mask_digest=digest(mask).hex(),
    )


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No outcome of a run can be written any more."""

    def full(*_: object) -> None:
        raise JobError("the disk is full")

    monkeypatch.setattr(recording, "ITEMS_A_PART", 2)  # so that outcomes wait for room
    monkeypatch.setattr(recording, "write_part", full)
