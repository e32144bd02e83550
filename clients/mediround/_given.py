"""What a caller names or gives: rounds referred to, and masks of its own, as they stand in messages.

Knows results, past rounds and arrays. Does not know calls or sessions' lives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mediround import masks
from mediround.errors import FieldViolation, InvalidArgument
from mediround.history import PastRound
from mediround.results import RoundResult
from mediround.v1 import segmentation_pb2 as pb

Bits: TypeAlias = npt.NDArray[np.bool_]
GivenMask: TypeAlias = Bits | npt.NDArray[np.uint8]
"""(H, W) of the image's size, with a pixel set: bool, or uint8 of 0 and one other value."""
Answered: TypeAlias = RoundResult | PastRound
"""A round that has been answered, by its result or as ``session.history()`` tells of it."""
Referred: TypeAlias = Answered | int | GivenMask
"""What a question may be about: a round, its zero-based index, or a mask."""


@dataclass(slots=True)
class Names:
    """What a session and its rounds are called on the server: other than before, once it was opened anew."""

    session_id: str
    former: set[str] = field(default_factory=set)
    """What it was called before."""
    rounds: dict[str, str] = field(default_factory=dict)
    """Rounds' names now, by those that they had."""

    def are_of(self, answered: Answered) -> bool:
        """Whether it is a round of this session."""
        return answered.session_id == self.session_id or answered.session_id in self.former

    def round_id(self, known: str) -> str:
        """The name now."""
        return self.rounds.get(known, known)

    def change(self, session_id: str, rounds: dict[str, str]) -> None:
        """``rounds``: new names by those until now."""
        self.former.add(self.session_id)
        self.session_id = session_id
        self.rounds = {before: rounds.get(now, now) for before, now in self.rounds.items()} | rounds


def refused(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {description}", (FieldViolation(field, description),))


def referred(
    names: Names, refer_to: object, origin: object, path: str
) -> tuple[pb.RoundReference | None, pb.GivenMask | None]:
    """One of the two, or neither. Raises InvalidArgument."""
    if isinstance(refer_to, np.ndarray) and refer_to.ndim:
        return None, given_mask(refer_to, origin, path)
    if origin != "":
        raise refused(f"{path}.given_mask.origin", "must be left out where no mask is given")
    match refer_to:
        case None:
            return None, None
        case RoundResult() | PastRound():
            if not names.are_of(refer_to):
                words = "must be a result of this session: ask in the session that it came from, or pass its mask"
                raise refused(f"{path}.refer_to", words)
            return known_round(names, refer_to), None
        case _:
            return pb.RoundReference(round=_index(refer_to, f"{path}.refer_to")), None


def known_round(names: Names, answered: Answered) -> pb.RoundReference:
    """A round and all that is known of it: a server refuses it where it is no longer so."""
    return pb.RoundReference(
        round=answered.index,
        session_id=names.session_id,
        round_id=names.round_id(answered.round_id),
        mask_digest=bytes.fromhex(answered.mask_digest),
    )


def given_mask(mask: object, origin: object, path: str) -> pb.GivenMask:
    """Raises InvalidArgument."""
    origin = checked_origin(origin, f"{path}.given_mask.origin")
    return pb.GivenMask(mask=mask_message(mask, f"{path}.given_mask.mask"), origin=origin)


def checked_origin(origin: object, path: str) -> str:
    """Raises InvalidArgument; what a text must be is the server's to say."""
    if isinstance(origin, str):
        return origin
    raise refused(path, f"must be a text, not a {type(origin).__name__}")


def mask_message(mask: object, path: str) -> pb.Mask:
    """COCO's run lengths. Raises InvalidArgument for anything but a ``GivenMask``."""
    bits = _bits(mask, path)
    height, width = bits.shape
    data = masks.encode(bits, pb.MASK_ENCODING_COCO_RLE)
    return pb.Mask(height=height, width=width, encoding=pb.MASK_ENCODING_COCO_RLE, data=data)


def _bits(mask: object, path: str) -> Bits:
    if not isinstance(mask, np.ndarray) or isinstance(mask, np.ma.MaskedArray):
        raise refused(path, f"must be an array, bool or uint8 (H, W), not a {type(mask).__name__}")
    pixels: npt.NDArray[Any] = np.asarray(mask)  # numpy's own: a subclass's methods may give other values
    if pixels.ndim != 2 or not pixels.size or pixels.dtype not in (np.bool_, np.uint8):
        raise refused(path, f"must be bool or uint8 (H, W), not {pixels.dtype} {pixels.shape}")
    if pixels.dtype == np.uint8 and np.any((pixels != 0) & (pixels != pixels.max())):
        raise refused(path, "must have one value beside 0: of a label map, pass labels == k")
    return np.ascontiguousarray(pixels != 0)


def _index(number: object, path: str) -> int:
    """Of an earlier round: any whole number, numpy's too, but no truth value."""
    if isinstance(number, Integral) and not isinstance(number, bool) and 0 <= int(number) < 1 << 32:
        return int(number)
    words = "must be a result of this session, the zero-based index of an earlier round, or a mask"
    raise refused(path, words)
