"""What comes back: the result of a round, a session's opening, the server's description.

Knows the public values and how they are read from messages. Does not know calls.
"""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, field, fields
from os import PathLike, fsdecode, fspath
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mediround import masks, rle
from mediround._overlay import Source, drawn, pixels_of, shown
from mediround._parts import Box, CacheUse, Reference, Timings
from mediround._png import png
from mediround._reading import box, cache_use, ends, reference, timings
from mediround._records import PixelRecord
from mediround.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    MediRoundError,
    ProtocolMismatch,
)
from mediround.image import ImageSource
from mediround.v1 import segmentation_pb2 as pb

_PARTS = (Box, Reference, Timings, CacheUse, PixelRecord)
_MOST_PIXELS = 1 << 28
"""Of a mask where the image's size is not known: 256 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class RoundResult:
    """One round's answer. Pass it as ``refer_to`` of a later round of the same session.

    ``print(result)`` says it in one line; a notebook shows it. It may be pickled, and then no longer knows its
    image.

    Attributes:
        session_id: the session that was asked.
        index: zero-based index of this round in its session.
        answer: the model's words, ``[SEG]`` included where there is a mask.
        mask: bool (H, W), of the image's own size; None when the model answered without one.
        area: pixels set; 0 without a mask.
        box: around the pixels set; None when none is.
        score: the judge's estimate of the mask's IoU, 0 to 1, before correction; None without a mask or a judge.
        seg_probability: the model's own probability of ``[SEG]`` where it stands, 0 to 1; None without a mask.
        corrected: whether the corrector replaced the feature that the mask was drawn from.
        reference: what the model was shown of the round referred to; None when the question referred to none.
        timings: where the time went, in seconds.
        cache: what the server had already computed.
        model_digest: SHA-256 of the model bundle's manifest, hex: keep it with every mask.
        request_id: the id by which the server's log knows the request that this round was asked by.
        engine_digest: names the record of what computed it (``describe().engine_records``), SHA-256, hex: equal
            digests, equal model, software and settings. Empty from a server that does not tell it.
        round_id: names the round for good: after an undo its index is another round's.
        mask_digest: names the mask (SHA-256 of its size and bits, hex); empty without one.
        amended: whether the round's mask was amended since, which only a request that was sent again can be told:
            ``mask`` is the first answer's all the same.
        seeded: whether the round was given as a whole (``session.seed``).
        expires_at: when the session ends if nothing more is asked of it, in seconds since the epoch; None: an
            older server does not say.
        pixels: how this side made the pixels that it sent, or what the server made 8 bits of them by: window,
            decoders. None: they were sent as they were, or the session was opened elsewhere.
        near_zero: bool (H, W), the pixels whose logits lie at most as far from 0 as ``near_zero`` of the question
            said: where an engine that rounds otherwise may draw the mask otherwise. None: it was not asked, there
            is no mask of the model's, or an older server does not say.
    """

    session_id: str
    index: int
    answer: str
    mask: npt.NDArray[np.bool_] | None = field(repr=False)
    area: int
    box: Box | None
    score: float | None
    seg_probability: float | None
    corrected: bool
    reference: Reference | None
    timings: Timings
    cache: CacheUse
    model_digest: str
    request_id: str = ""
    engine_digest: str = ""
    round_id: str = ""
    mask_digest: str = ""
    amended: bool = False
    seeded: bool = False
    expires_at: float | None = None
    pixels: PixelRecord | None = None
    near_zero: npt.NDArray[np.bool_] | None = field(default=None, repr=False)
    _source: Source | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return describe(self)

    def __getstate__(self) -> list[object]:
        return [None if each.name == "_source" else getattr(self, each.name) for each in fields(self)]

    def save(self, path: str | PathLike[str]) -> None:
        """Write the mask as a 1-bit PNG, set pixels white.

        Raises:
            FailedPrecondition: there is no mask.
            InvalidArgument: the path does not end in ``.png``.
            OSError: it cannot be written.
        """
        name = fsdecode(fspath(path)) if isinstance(path, str | PathLike) else ""
        if not name.lower().endswith(".png") or "\0" in name:
            raise InvalidArgument("path: must end in .png", (FieldViolation("path", "must end in .png"),))
        if self.mask is None:
            raise FailedPrecondition("this round has no mask to save")
        Path(name).write_bytes(png(self.mask))

    def overlay(self, image: ImageSource | None = None) -> npt.NDArray[np.uint8]:
        """RGB uint8 (H, W, 3): the image, the mask tinted red, and what the round refers to outlined in yellow.

        ``image`` is needed where the session was opened on a file's bytes, or what it was opened on is gone.

        Raises:
            FailedPrecondition: the image is not known, or is a file and Pillow (extra ``images``) is not
            installed.
            InvalidArgument: the image is of another size than the mask, or is none.
            OSError: its path cannot be read.
        """
        source = image if image is not None or self._source is None else self._source()
        if source is None:
            raise FailedPrecondition("the image is not known here: pass it")
        base = pixels_of(source)
        if self.mask is not None and self.mask.shape != base.shape[:2]:
            words = "must be of the mask's size"
            raise InvalidArgument(f"image: {words}", (FieldViolation("image", words),))
        return drawn(base, self.mask, astuple(self.reference.box) if self.reference else None)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: the fields; of ``mask`` and ``near_zero`` ``size`` (H, W) and ``counts``, COCO's run
        lengths.
        """
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name[0] != "_"}
        values = {name: asdict(value) if isinstance(value, _PARTS) else value for name, value in plain.items()}
        return values | {"mask": _counts(self.mask), "near_zero": _counts(self.near_zero)}

    def _repr_png_(self) -> bytes | None:
        """For notebooks; the mask alone where the image is not known."""
        try:
            return shown(self.overlay())
        except (MediRoundError, OSError):
            return None if self.mask is None else shown(np.repeat(self.mask[..., None], 3, 2).view(np.uint8) * 255)


@dataclass(frozen=True, slots=True)
class Opening:
    """A session as the server opened it.

    Attributes:
        session_id: names the session in every call; hard to guess.
        height: of the image and of every mask, in pixels; None for a session that was taken up by its id.
        width: the same.
        upload_skipped: whether the server held the image's bytes, and none were sent.
        model_digest: SHA-256 of the model bundle's manifest, hex; None as above.
        rounds: that the session had: 0 for a new one; None as above.
        expires_at: when it ends if nothing is asked of it, in seconds since the epoch; None as above, or where an
            older server does not say.
        pixels: as a result's.
    """

    session_id: str
    height: int | None
    width: int | None
    upload_skipped: bool
    model_digest: str | None
    rounds: int | None = None
    expires_at: float | None = None
    pixels: PixelRecord | None = None


def opening(message: pb.OpenSessionResponse) -> Opening:
    return Opening(
        session_id=message.session_id,
        height=message.height,
        width=message.width,
        upload_skipped=message.upload_skipped,
        model_digest=message.model_digest,
        rounds=message.rounds,
        expires_at=ends(message),
    )


def taken_up(session_id: object) -> Opening:
    """What is known of a session by its id alone. Raises InvalidArgument for what cannot be one."""
    if not isinstance(session_id, str) or not session_id or not session_id.isprintable():
        raise InvalidArgument(
            "session_id: must be a session's id", (FieldViolation("session_id", "must be a session's id"),)
        )
    return Opening(session_id, None, None, upload_skipped=False, model_digest=None)


def round_result(
    message: pb.RoundResult, session: Opening, request_id: str = "", source: Source | None = None
) -> RoundResult:
    """Raises ProtocolMismatch when the mask cannot be read or is not of the image's size."""
    mask = message.mask if message.HasField("mask") else None
    return RoundResult(
        session_id=session.session_id,
        index=message.round,
        answer=message.answer,
        mask=bits(mask, session) if mask else None,
        area=mask.area if mask else 0,
        box=box(mask.box) if mask and mask.HasField("box") else None,
        score=message.score if message.HasField("score") else None,
        seg_probability=message.seg_probability if message.HasField("seg_probability") else None,
        corrected=message.corrected,
        reference=reference(message.reference) if message.HasField("reference") else None,
        timings=timings(message.timings),
        cache=cache_use(message.cache),
        model_digest=message.model_digest,
        request_id=request_id,
        engine_digest=message.engine_digest,
        round_id=message.round_id,
        mask_digest=message.mask_digest.hex(),
        amended=message.amended,
        seeded=message.seeded,
        expires_at=ends(message),
        pixels=session.pixels,
        near_zero=bits(message.near_zero, session) if message.HasField("near_zero") else None,
        _source=source,
    )


def describe(result: RoundResult) -> str:
    """A result in one line."""
    around, score, used = result.box, result.score, result.reference
    parts = [
        f"round {result.index}: {result.answer!r}",
        "no mask" if result.mask is None else f"{result.area} px",
        "" if around is None else f"x {around.x_min} to {around.x_max}, y {around.y_min} to {around.y_max}",
        "" if score is None else f"score {score:.2f}{', corrected' if result.corrected else ''}",
        "" if used is None else f"refers to {'a given mask' if used.index is None else f'round {used.index}'}",
        f"{result.timings.total * 1000:.0f} ms",
    ]
    return "; ".join(filter(None, parts))


def bits(mask: pb.Mask, session: Opening) -> npt.NDArray[np.bool_]:
    """bool (H, W). Raises ProtocolMismatch when it cannot be read or is not of the image's size."""
    # Checked before decoding: a mask's size says how much memory it takes.
    known = session.height is not None
    if (mask.height, mask.width) != (session.height, session.width) if known else _vast(mask):
        raise ProtocolMismatch(f"a mask of {mask.height}x{mask.width} for another image size")
    try:
        return masks.decode(mask.data, mask.encoding, mask.height, mask.width)
    except ValueError as error:
        raise ProtocolMismatch(str(error)) from error


def _counts(mask: npt.NDArray[np.bool_] | None) -> dict[str, object] | None:
    return None if mask is None else {"size": list(mask.shape), "counts": rle.encode(mask).decode()}


def _vast(mask: pb.Mask) -> bool:
    return mask.height * mask.width > _MOST_PIXELS
