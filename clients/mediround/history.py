"""What a session holds, as the server tells it later: its rounds without their masks, its state; and how far a
request is.

Knows the public values and how they are read from messages. Does not know calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mediround._parts import Box, Reference
from mediround._reading import box, ends, reference, seconds
from mediround.v1 import segmentation_pb2 as pb


@dataclass(frozen=True, slots=True)
class PastRound:
    """A round of a session as it is now. Pass it as ``refer_to``, like a result; ``session.mask`` has its mask.

    Attributes:
        session_id: its session.
        index: zero-based index of this round in its session.
        round_id: names the round for good: after an undo its index is another round's.
        question: as it was asked.
        answer: as it was answered, ``[SEG]`` included where there is a mask.
        score: the judge's estimate, as in ``RoundResult``.
        seg_probability: the model's own probability of ``[SEG]``, as in ``RoundResult``.
        corrected: whether the corrector replaced the feature that the model's mask was drawn from.
        amended: whether a person's mask is in place of the model's.
        seeded: whether the round was given as a whole (``session.seed``).
        reference: what the model was shown of the mask referred to; None when the question referred to none.
        mask_digest: names the mask as it is now, hex; empty without one.
        area: pixels set in it; 0 without a mask.
        box: around the pixels set; None when none is.
        original_digest: names the model's own mask, or the seed's, where the round was amended; else empty.
        engine_digest: names the record of what computed it, as in ``RoundResult``; empty of a seed.
        origin: where the mask as it is now comes from, in the words of the program that gave it: the amend's, else
            the seed's.
    """

    session_id: str
    index: int
    round_id: str
    question: str
    answer: str
    score: float | None
    seg_probability: float | None
    corrected: bool
    amended: bool
    seeded: bool
    reference: Reference | None
    mask_digest: str
    area: int
    box: Box | None
    original_digest: str = ""
    engine_digest: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A session of yours: ``client.resume(summary.session_id)`` takes it up again.

    Attributes:
        session_id: names the session in every call.
        height: of its image and of every mask, in pixels.
        width: the same.
        rounds: how many it has.
        keep: whether it was opened to be kept.
        state: ``open``, or ``parked``: the next call brings it back, perhaps after ``NeedsImage``.
        opened_at: seconds since the epoch.
        expires_at: when it ends if nothing is asked of it, in seconds since the epoch.
        content_sha256: of the image's bytes as they were sent, hex.
        model_digest: of the model that answered its rounds, hex.
        window: what the server made 8 bits of its image's 16 by; empty where it was sent in 8.
    """

    session_id: str
    height: int
    width: int
    rounds: int
    keep: bool
    state: Literal["open", "parked"]
    opened_at: float
    expires_at: float | None
    content_sha256: str
    model_digest: str
    window: str = ""


Stage = Literal["queued", "prepare", "language", "encode", "decode"]
_STAGES: dict[int, Stage] = {
    pb.PROGRESS_STAGE_QUEUED: "queued",
    pb.PROGRESS_STAGE_PREPARE: "prepare",
    pb.PROGRESS_STAGE_LANGUAGE: "language",
    pb.PROGRESS_STAGE_ENCODE: "encode",
    pb.PROGRESS_STAGE_DECODE: "decode",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a request stands.

    Attributes:
        stage: ``queued``: waits for earlier requests; ``prepare``: crops and boxes; ``language``; ``encode``:
            waits for the image's embedding; ``decode``. A newer server's unknown stages are told as ``prepare``.
        queue_position: ``queued``: requests before this one.
        expected_wait: ``queued``: seconds until its turn, as far as the server can say.
        wave: else the language pass under way, counted from 0.
        waves: passes that the request takes.
    """

    stage: Stage
    queue_position: int
    expected_wait: float
    wave: int
    waves: int


def past_round(message: pb.RoundSummary, session_id: str) -> PastRound:
    mask = message.mask if message.HasField("mask") else None
    return PastRound(
        session_id=session_id,
        index=message.round,
        round_id=message.round_id,
        question=message.question,
        answer=message.answer,
        score=message.score if message.HasField("score") else None,
        seg_probability=message.seg_probability if message.HasField("seg_probability") else None,
        corrected=message.corrected,
        amended=message.amended,
        seeded=message.seeded,
        reference=reference(message.reference) if message.HasField("reference") else None,
        mask_digest=mask.mask_digest.hex() if mask else "",
        area=mask.area if mask else 0,
        box=box(mask.box) if mask and mask.HasField("box") else None,
        original_digest=message.original.mask_digest.hex() if message.HasField("original") else "",
        engine_digest=message.engine_digest,
        origin=message.origin,
    )


def session_summary(message: pb.SessionSummary) -> SessionSummary:
    return SessionSummary(
        session_id=message.session_id,
        height=message.height,
        width=message.width,
        rounds=message.rounds,
        keep=message.keep,
        state="parked" if message.state == pb.SESSION_STATE_PARKED else "open",
        opened_at=seconds(message.opened_at),
        expires_at=ends(message),
        content_sha256=message.content_sha256.hex(),
        model_digest=message.model_digest,
        window=message.window,
    )


def progress_of(message: pb.Progress) -> Progress:
    return Progress(
        stage=_STAGES.get(message.stage, "prepare"),
        queue_position=message.queue_position,
        expected_wait=seconds(message.expected_wait),
        wave=message.wave,
        waves=message.waves,
    )
