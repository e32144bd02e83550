"""Rows of the index: one a round, flat, so that DuckDB, pandas and Polars read them without code of ours.

Knows the columns, what they mean, and how rows become a Parquet table. Does not know files or the service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import pyarrow as pa

Status: TypeAlias = Literal["mask", "no_mask", "not_asked", "failed"]
"""``no_mask``: the model answered without one. ``not_asked``: the round that it refers to got no mask. ``failed``:
of every row of an item that failed; ``error_code`` and ``error`` say why."""

FINISHED: tuple[Status, ...] = ("mask", "no_mask", "not_asked")
"""Of an item that did not fail."""


@dataclass(frozen=True, slots=True)
class Row:
    """One round of one item. Of an item without a dialogue: one row, whose ``round`` is 0.

    Attributes:
        item_id: the manifest's name of the item.
        image_id: the manifest's name of its image.
        run_key: of the run, hex: what decides a result besides the item.
        round: zero-based index in the dialogue.
        rounds: of the dialogue.
        name: the question's name; unique within an item.
        label: what the mask shows, in words.
        question: the words asked.
        refer_to: index of the round that it is about; None: of none, or of a mask of the archive.
        reference: ``round``, ``given`` (a mask of the archive), or empty.
        status: see ``Status``.
        answer: the model's words; empty where there are none.
        score: the judge's estimate of the mask's IoU, 0 to 1.
        seg_probability: the model's own probability of ``[SEG]``.
        corrected: whether the corrector replaced the mask.
        area: pixels set.
        x_min: of the box around them, inclusive; with y_min, x_max, y_max; None where none is set.
        height: of the image and the mask, pixels; 0 where it is not known.
        width: the same.
        counts: the mask as COCO's compressed run lengths; None without one. With ``height`` and ``width`` as
            ``{"size": [height, width], "counts": counts}`` it is what pycocotools decodes.
        mask_digest: the server's name of the mask, hex: SHA-256; empty without one.
        wave: index of the language pass within the request; rounds of one wave share a pass.
        seconds: on the server, from arrival to the result.
        seconds_queue: of it, waiting for a place.
        seconds_encode: waiting for the image's embedding.
        seconds_language: reading and answering.
        seconds_decode: from feature to logits.
        window: how the image's pixels were made; empty for a picture.
        model_digest: SHA-256 of the model's manifest, hex; empty where nothing was answered.
        engine_digest: names the engine record; the run's ``engines.json`` has them whole.
        request_id: by which the server's log knows the request.
        attempts: how often the start of the run that finished the item asked it, refusals and broken calls
            included; 0: never, since it could not be read.
        error_code: empty; else a word: gRPC's code, or of our own.
        error: what it means and what must change. Holds no name, path or identifier.
        finished: when the item was finished.
    """

    item_id: str
    image_id: str
    run_key: str
    round: int
    rounds: int
    name: str
    label: str
    question: str
    refer_to: int | None
    reference: str
    status: Status
    finished: datetime
    attempts: int = 1
    answer: str = ""
    score: float | None = None
    seg_probability: float | None = None
    corrected: bool = False
    area: int = 0
    x_min: int | None = None
    y_min: int | None = None
    x_max: int | None = None
    y_max: int | None = None
    height: int = 0
    width: int = 0
    counts: str | None = None
    mask_digest: str = ""
    wave: int | None = None
    seconds: float | None = None
    seconds_queue: float | None = None
    seconds_encode: float | None = None
    seconds_language: float | None = None
    seconds_decode: float | None = None
    window: str = ""
    model_digest: str = ""
    engine_digest: str = ""
    request_id: str = ""
    error_code: str = ""
    error: str = ""


_TEXT, _REPEATED = pa.string(), pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("item_id", _TEXT, nullable=False),
        pa.field("image_id", _TEXT, nullable=False),
        pa.field("run_key", _REPEATED, nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("rounds", pa.int32(), nullable=False),
        pa.field("name", _REPEATED, nullable=False),
        pa.field("label", _REPEATED, nullable=False),
        pa.field("question", _REPEATED, nullable=False),
        pa.field("refer_to", pa.int32()),
        pa.field("reference", _REPEATED, nullable=False),
        pa.field("status", _REPEATED, nullable=False),
        pa.field("finished", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("answer", _TEXT, nullable=False),
        pa.field("score", pa.float64()),
        pa.field("seg_probability", pa.float64()),
        pa.field("corrected", pa.bool_(), nullable=False),
        pa.field("area", pa.int64(), nullable=False),
        *(pa.field(name, pa.int32()) for name in ("x_min", "y_min", "x_max", "y_max")),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("counts", _TEXT),
        pa.field("mask_digest", _TEXT, nullable=False),
        pa.field("wave", pa.int32()),
        *(pa.field(f"seconds{part}", pa.float64()) for part in ("", "_queue", "_encode", "_language", "_decode")),
        pa.field("window", _REPEATED, nullable=False),
        pa.field("model_digest", _REPEATED, nullable=False),
        pa.field("engine_digest", _REPEATED, nullable=False),
        pa.field("request_id", _TEXT, nullable=False),
        pa.field("error_code", _REPEATED, nullable=False),
        pa.field("error", _TEXT, nullable=False),
    ]
)
"""Columns in the order of ``Row``."""


def table(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA)


def rows_of(found: pa.Table) -> list[Row]:
    """The reverse; of a table with at least these columns."""
    values: list[dict[str, Any]] = found.select(SCHEMA.names).to_pylist()
    return [Row(**each) for each in values]
