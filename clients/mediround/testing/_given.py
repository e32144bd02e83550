"""Masks that callers give to a scripted server, and rounds that they refer to.

Knows messages and masks. Does not know calls. What is refused is refused by the paths of the real service; PNG
alone is refused here and not there, since reading it would need Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence

from mediround import masks
from mediround._description import Limits
from mediround.errors import FailedPrecondition, InvalidArgument, StaleReference
from mediround.testing._past import ScriptedRound
from mediround.testing._rules import check_digest, check_origin, invalid
from mediround.testing.script import Bits
from mediround.v1 import segmentation_pb2 as pb


def because(reason: str, words: str) -> FailedPrecondition:
    """A refusal with the contract's reason."""
    error = FailedPrecondition(words)
    error.reason = reason
    return error


def masks_of(
    message: pb.Question, path: str, size: tuple[int, int], limits: Limits
) -> tuple[Bits | None, Bits | None]:
    """Those that came with a question: one that it is about, and a seed's. Raises InvalidArgument."""
    given = seed = None
    if message.HasField("given_mask"):
        given = given_mask(message.given_mask, f"{path}.given_mask", size, limits)
    if message.HasField("seed_mask"):
        seed = sent_mask(message.seed_mask, f"{path}.seed_mask", size, limits)
    return given, seed


def given_mask(message: pb.GivenMask, path: str, size: tuple[int, int], limits: Limits) -> Bits | None:
    """None: one is named by its digest. Raises InvalidArgument."""
    check_origin(message.origin, f"{path}.origin")
    match message.WhichOneof("given"):
        case "mask":
            return sent_mask(message.mask, f"{path}.mask", size, limits)
        case "mask_digest":
            check_digest(message.mask_digest, f"{path}.mask_digest")
            return None
        case _:
            raise invalid(path, "must hold a mask, or the digest of one")


def named_mask(digest: bytes, held: Sequence[Bits]) -> Bits:
    """Raises FailedPrecondition."""
    for each in held:
        if masks.digest(each) == digest:
            return each
    raise because("MASK_NOT_HELD", "the session holds no mask of this digest: the mask must be sent")


def sent_mask(message: pb.Mask, path: str, size: tuple[int, int], limits: Limits) -> Bits:
    """Raises InvalidArgument."""
    height, width = size
    if (message.height, message.width) != size:
        words = f"must be of the image's size, {height}x{width}; it is {message.height}x{message.width}"
        raise invalid(path, words)
    if not 0 < len(message.data) <= limits.max_given_mask_bytes:
        most = limits.max_given_mask_bytes
        raise invalid(f"{path}.data", f"must hold 1 to {most} bytes; it holds {len(message.data)}")
    if message.encoding == pb.MASK_ENCODING_PNG:
        raise invalid(f"{path}.encoding", "must be COCO_RLE or PACKED_BITS: a scripted server reads no PNG")
    try:
        bits = masks.decode(message.data, message.encoding or pb.MASK_ENCODING_COCO_RLE, height, width)
    except ValueError as error:
        raise invalid(f"{path}.data", f"is truncated or malformed: {error}") from None
    if not bits.any():
        raise invalid(path, "must have a pixel set: a mask without one has no crop and no box")
    return bits


def check_known(rounds: Sequence[ScriptedRound], question: pb.Question) -> None:
    """Raises StaleReference where the round referred to is not what the caller takes it for."""
    known = question.refer_to
    if not (known.round_id or known.mask_digest):
        return
    of = rounds[known.round] if known.round < len(rounds) else None
    if of is None or known.round_id not in {"", of.round_id}:
        raise StaleReference(f"round {known.round} is not the one referred to, which was undone")
    if known.mask_digest and (of.mask is None or known.mask_digest != masks.digest(of.mask)):
        raise StaleReference(f"the mask of round {known.round} is not the one referred to any more")


def of_one_question(error: InvalidArgument) -> InvalidArgument:
    """The refusal of a dialogue of one question, as a refusal of that question."""
    path, _, part = error.violations[0].field.partition(".") if error.violations else ("", "", "")
    if path not in {"questions", "questions[0]"}:
        return error
    return invalid(f"question.{part}" if part else "question", error.violations[0].description)
