"""What this side knows of a session: its opening, its rounds so far, its end; and what is asked of it beside
rounds.

Knows messages and the values that callers see. Does not know calls; both clients use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral

from mediround._calls import Call, new_session_id
from mediround._given import Answered, Bits, GivenMask, Names, given_mask, refused
from mediround._overlay import Source
from mediround._reading import SaysItsEnd, ends
from mediround._replay import Replay
from mediround.errors import (
    FailedPrecondition,
    InvalidArgument,
    MediRoundError,
    NeedsImage,
    NotFound,
    StaleReference,
)
from mediround.history import PastRound, Progress, past_round, progress_of
from mediround.image import Upload
from mediround.results import Opening, RoundResult, bits, round_result
from mediround.v1 import segmentation_pb2 as pb

Watch = Callable[[Progress], None]
"""Hears where a request stands."""


@dataclass(slots=True)
class SessionState:
    """One session's."""

    opening: Opening
    keep: bool = False
    """Whether leaving its block leaves it open."""
    left_open: bool = False
    """Whether it is for this side to close, and not closed."""
    source: Source | None = None
    rounds: int | None = None
    """That it has, as far as this side knows: an undo or amend that others have overtaken is refused by it."""
    expires_at: float | None = None
    """As its server said last."""
    replay: Replay | None = None
    """What it is opened anew from, where that is wanted."""
    names: Names = field(init=False)

    def __post_init__(self) -> None:
        self.names = Names(self.opening.session_id)

    @classmethod
    def opened(
        cls, opening: Opening, source: Source | None, *, keep: bool, replay: Replay | None = None
    ) -> SessionState:
        """Of a session that was opened here."""
        return cls(opening, keep, not keep, source, opening.rounds, opening.expires_at, replay)

    @classmethod
    def resumed(cls, opening: Opening, image: Upload, source: Source) -> SessionState:
        """Of a session that was given its image again."""
        return cls(replace(opening, pixels=image.record), source=source)

    @property
    def session_id(self) -> str:
        return self.names.session_id

    @property
    def remembers(self) -> bool:
        """Whether the server knows requests again by their ids: one that says when sessions end does. A session
        lives on such servers alone, so that a repeated request is answered as the first was, or finds no session.
        """
        return self.expires_at is not None

    def replayable(self, lost: NotFound | NeedsImage) -> Replay:
        """What the lost session is opened anew from. Raises ``lost``, where it was to be replayed with a reason
        why it cannot be.
        """
        if self.replay is None:
            raise lost
        try:
            self.replay.check(self.rounds)
        except FailedPrecondition as why:
            raise _not_replayed(lost, why) from lost
        return self.replay

    def refused_replay(self, lost: NotFound | NeedsImage, why: InvalidArgument) -> NotFound | NeedsImage:
        """The server takes no such image, round or mask: the next call does not try again."""
        if self.replay is not None:
            self.replay.give_up(f"the server refused it: {why}")
        return _not_replayed(lost, why)

    def opened_anew(self, opening: Opening, rounds: dict[str, str]) -> None:
        """The session is this one from now on, whose rounds were made again: their names, by those until now."""
        self.opening = replace(opening, rounds=self.opening.rounds)
        self.rounds, self.expires_at = len(rounds), opening.expires_at
        self.names.change(opening.session_id, rounds)

    def result(self, message: pb.RoundResult, call: Call, question: pb.Question) -> RoundResult:
        """Raises ProtocolMismatch."""
        self._heard(message)
        self.rounds = max(self.rounds or 0, message.round + 1)
        if self.replay is not None:
            self.replay.answered(question, message)
        return round_result(message, self.opening, call.request_id, self.source)

    def history(self, message: pb.GetSessionResponse) -> tuple[PastRound, ...]:
        session = message.session
        self._heard(session)
        self.rounds, self.keep = len(message.rounds), self.keep or session.keep
        self.opening = replace(
            self.opening,
            height=session.height,
            width=session.width,
            model_digest=session.model_digest,
            rounds=session.rounds if self.opening.rounds is None else self.opening.rounds,
        )
        return tuple(past_round(each, self.session_id) for each in message.rounds)

    def history_request(self) -> pb.GetSessionRequest:
        return pb.GetSessionRequest(session_id=self.session_id)

    def keep_alive_request(self) -> pb.KeepAliveRequest:
        return pb.KeepAliveRequest(session_id=self.session_id)

    def kept_alive(self, message: pb.KeepAliveResponse) -> float:
        self._heard(message)
        self.rounds = message.rounds
        return message.expires_at.ToNanoseconds() / 1e9

    def mask_request(self, of: Answered | str, *, original: bool) -> pb.GetMaskRequest:
        """Raises InvalidArgument."""
        return pb.GetMaskRequest(
            session_id=self.session_id,
            round_id=self._round_id(of),
            original=bool(original),
            mask_encoding=pb.MASK_ENCODING_COCO_RLE,
        )

    def held_mask_request(self, digest: bytes) -> pb.GetMaskRequest:
        """Of any mask that the session holds."""
        encoding = pb.MASK_ENCODING_COCO_RLE
        return pb.GetMaskRequest(session_id=self.session_id, mask_digest=digest, mask_encoding=encoding)

    def mask(self, message: pb.GetMaskResponse) -> Bits:
        """Raises ProtocolMismatch."""
        self._heard(message)
        return bits(message.mask, self.opening)

    def rewind_request(self, count: int) -> pb.RewindSessionRequest:
        """Raises InvalidArgument."""
        rounds = self.rounds or 0
        if not isinstance(count, Integral) or isinstance(count, bool) or not 1 <= int(count) <= rounds:
            raise refused("n", f"must be a whole number from 1 to the {rounds} rounds that the session has")
        left = rounds - int(count)
        return pb.RewindSessionRequest(session_id=self.session_id, rounds=left, expected_rounds=rounds)

    def rewound(self, message: pb.RewindSessionResponse) -> int:
        self._heard(message)
        self.rounds = message.rounds
        if self.replay is not None:
            self.replay.rewound(message.rounds)
        return message.rounds

    def fork_request(
        self, after: Answered | int | None, held: Sequence[PastRound], *, keep: bool
    ) -> pb.ForkSessionRequest:
        """``held``: the session's rounds, where ``after`` is one. Raises InvalidArgument, StaleReference."""
        request = pb.ForkSessionRequest(
            session_id=self.session_id, new_session_id=new_session_id(), keep=bool(keep)
        )
        if isinstance(after, RoundResult | PastRound):
            self._round_id(after)
            there = [self.names.round_id(each.round_id) for each in held[after.index : after.index + 1]]
            if there != [self.names.round_id(after.round_id)]:
                raise StaleReference(f"round {after.index} is not the one named, which was undone")
            # The rounds must still be these when the branch begins with them.
            request.rounds, request.expected_rounds = after.index + 1, len(held)
        elif after is not None:
            if not isinstance(after, Integral) or isinstance(after, bool) or not 0 <= int(after) < 1 << 31:
                raise refused(
                    "after", "must be a round of this session, its zero-based index, or None for the last"
                )
            request.rounds = int(after) + 1
        return request

    def branch(self, message: pb.ForkSessionResponse, *, keep: bool) -> SessionState:
        opening = replace(
            self.opening,
            session_id=message.session_id,
            upload_skipped=True,
            rounds=message.rounds,
            expires_at=message.expires_at.ToNanoseconds() / 1e9,
        )
        replay = None if self.replay is None else self.replay.branch(message.rounds, keep=keep)
        return SessionState.opened(opening, self.source, keep=keep, replay=replay)

    def amendment(self, of: Answered, mask: GivenMask | None, origin: str) -> pb.GivenMask:
        """What is to be in place of the round's mask. Raises InvalidArgument."""
        self._round_id(of)
        if mask is not None:
            return given_mask(mask, origin, "amend")
        digest = of.original_digest if isinstance(of, PastRound) and of.amended else of.mask_digest
        return pb.GivenMask(mask_digest=bytes.fromhex(digest))

    def amend_request(self, of: Answered, given: pb.GivenMask) -> pb.AmendRoundRequest:
        return pb.AmendRoundRequest(session_id=self.session_id, round_id=self._round_id(of), given_mask=given)

    def amended(self, message: pb.AmendRoundResponse, given: pb.GivenMask) -> PastRound:
        self._heard(message)
        if self.replay is not None:
            self.replay.amended(given, message.round)
        return past_round(message.round, self.session_id)

    def _round_id(self, of: Answered | str) -> str:
        """Raises InvalidArgument for what is no round of this session."""
        match of:
            case RoundResult() | PastRound() if self.names.are_of(of):
                return self.names.round_id(of.round_id)
            case str() if of.isprintable() and of:
                return self.names.round_id(of)
            case _:
                raise refused("round", "must be a round of this session: its result, or one of its history")

    def _heard(self, message: SaysItsEnd) -> None:
        told = ends(message)
        self.expires_at = self.expires_at if told is None else told


def _not_replayed(lost: NotFound | NeedsImage, why: MediRoundError) -> NotFound | NeedsImage:
    told = type(lost)(f"{lost}; it was not replayed: {why}")
    told.reason, told.request_id = lost.reason, lost.request_id
    return told


def watched(request: pb.AskRoundRequest) -> pb.AskRoundWithProgressRequest:
    """The same: the two have the same fields by the same numbers."""
    return pb.AskRoundWithProgressRequest.FromString(request.SerializeToString())


def told(
    response: pb.SegmentDialogueResponse | pb.AskRoundWithProgressResponse, watch: Watch | None
) -> pb.RoundResult | None:
    """The result that a message brings; None: it brought word of where the request stands, and ``watch`` was
    told.
    """
    if response.HasField("result"):
        return response.result
    if watch is not None and response.HasField("progress"):
        watch(progress_of(response.progress))
    return None
