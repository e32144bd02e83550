"""What a lost session is opened anew from: its image, and each round as it was asked and answered.

Knows questions, results and masks as messages, and the memory that they take. Does not know calls.

A round that has a mask is given as a whole (a seed): its words and masks are those that this side knows, so that
what is asked next meets the same dialogue and the same masks, and the model is not asked again. One without a
pixel cannot be given: it is asked again, and must be answered as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from threading import RLock

from mediround.errors import FailedPrecondition, FieldViolation, InvalidArgument, OtherModel
from mediround.image import Upload
from mediround.results import Opening
from mediround.v1 import segmentation_pb2 as pb

MAX_BYTES = 128 << 20
"""Of one session's image and masks, as they are sent: what is kept here so that it can be replayed."""
MAX_MASK_BYTES = 7 << 20
"""Of one of these masks: a question may hold two, and servers take 16 MiB a request; of a mask most take less."""
MAX_REQUEST_BYTES = 8 << 20
"""Of a request that makes several rounds again."""
_TOO_LARGE = f"one of its masks takes more than {MAX_MASK_BYTES >> 20} MiB"
_TOO_MUCH = f"its image and masks take more than the {MAX_BYTES >> 20} MiB that are kept for a replay"


@dataclass(frozen=True, slots=True)
class KnownRound:
    """A round as this side knows it."""

    question: pb.Question
    """As it was asked, without its masks."""
    answer: str
    round_id: str
    mask_digest: bytes
    """Of the mask that it was answered with."""
    area: int
    used: pb.ReferenceUsed | None
    amended: pb.GivenMask | None = None
    """By digest."""

    @property
    def masks(self) -> set[bytes]:
        """Digests of those that making it again takes."""
        own = {self.mask_digest} if self.given else set()
        used = set() if self.used is None else {self.used.mask_digest}
        return own | used | (set() if self.amended is None else {self.amended.mask_digest})

    @property
    def given(self) -> bool:
        """Whether it can be given as a whole."""
        return self.area > 0


@dataclass(slots=True)
class Replay:
    """One session's. Safe across threads."""

    image: Upload
    model_digest: str
    keep: bool
    rounds: dict[int, KnownRound] = field(default_factory=dict)
    masks: dict[bytes, pb.Mask] = field(default_factory=dict)
    """By digest: all that a round has or used."""
    why_not: str = ""
    """Why it can no longer be replayed."""
    _lock: AbstractContextManager[bool] = field(default_factory=RLock, init=False, repr=False)

    @classmethod
    def of(cls, image: Upload, opened: Opening, *, keep: bool) -> Replay:
        """Of a new session. Its image must be ``checked``."""
        return cls(image, opened.model_digest or "", keep)

    @classmethod
    def of_past(cls, image: Upload, past: pb.GetSessionResponse) -> Replay:
        """Of a session that others may have begun; its masks are ``missing``."""
        made = cls(image, past.session.model_digest, past.session.keep)
        made.rounds = {each.round: _known(each) for each in past.rounds}
        return made

    def missing(self) -> set[bytes]:
        """Digests of masks that a replay needs and that are not here."""
        return {digest for each in self.rounds.values() for digest in each.masks} - self.masks.keys()

    def found(self, digest: bytes, mask: pb.Mask) -> None:
        """One of the ``missing``."""
        self.masks[digest] = mask
        self._bound()

    @property
    def nbytes(self) -> int:
        return len(self.image.payload) + sum(len(each.data) for each in self.masks.values())

    def answered(self, question: pb.Question, result: pb.RoundResult) -> None:
        """The round that ``question`` was answered with."""
        used = result.reference if result.HasField("reference") else None
        plain = pb.Question()
        plain.CopyFrom(question)
        for name in ("given_mask", "seed_mask"):
            plain.ClearField(name)
        words, digest, area = result.answer, result.mask_digest, result.mask.area
        with self._lock:
            if result.round in self.rounds:  # others have undone it
                self.rewound(result.round)
            if used is not None and question.given_mask.HasField("mask"):
                self.masks[used.mask_digest] = question.given_mask.mask
            if result.HasField("mask"):
                self.masks[result.mask_digest] = result.mask
            self.rounds[result.round] = KnownRound(plain, words, result.round_id, digest, area, used)
            self._bound()

    def amended(self, given: pb.GivenMask, of: pb.RoundSummary) -> None:
        """``given`` is in place of a round's mask; or was taken back."""
        digest = of.mask.mask_digest
        by_digest = pb.GivenMask(mask_digest=digest, origin=given.origin) if of.amended else None
        with self._lock:
            if of.round not in self.rounds:
                return
            if given.HasField("mask"):
                self.masks[digest] = given.mask
            self.rounds[of.round] = replace(self.rounds[of.round], amended=by_digest)
            self._bound()

    def rewound(self, rounds: int) -> None:
        """The session has its first ``rounds`` alone."""
        with self._lock:
            self.rounds = {index: each for index, each in self.rounds.items() if index < rounds}
            needed = {digest for each in self.rounds.values() for digest in each.masks}
            self.masks = {digest: mask for digest, mask in self.masks.items() if digest in needed}

    def branch(self, rounds: int, *, keep: bool) -> Replay:
        """Of a branch that begins with so many rounds."""
        with self._lock:
            made = replace(self, keep=keep, rounds=dict(self.rounds), masks=dict(self.masks))
        made.rewound(rounds)
        return made

    def check(self, rounds: int | None) -> None:
        """``rounds``: how many the session had, as far as is known. Raises FailedPrecondition where it cannot be
        replayed; its message says why.
        """
        if self.why_not:
            raise FailedPrecondition(self.why_not)
        if sorted(self.rounds) != list(range(len(self.rounds))) or rounds not in {None, len(self.rounds)}:
            raise FailedPrecondition("it had rounds that were not asked here")

    def check_model(self, opened: Opening) -> None:
        """Raises OtherModel, which names the model that is served now."""
        if opened.model_digest != self.model_digest:
            raise OtherModel(
                f"the session was lost, and was not replayed: the server has another model now, "
                f"{opened.model_digest}, and not {self.model_digest}"
            )

    def dialogues(self, session_id: str) -> Iterator[pb.SegmentDialogueRequest]:
        """What makes its rounds again, in as few requests as their size allows."""
        with self._lock:
            questions = list(self._questions())
        held: list[pb.Question] = []
        for question in questions:
            if sum(map(pb.Question.ByteSize, [*held, question])) > MAX_REQUEST_BYTES and held:
                yield self._dialogue(session_id, held)
                held = []
            held.append(question)
        if held:
            yield self._dialogue(session_id, held)

    @staticmethod
    def _dialogue(session_id: str, questions: Sequence[pb.Question]) -> pb.SegmentDialogueRequest:
        return pb.SegmentDialogueRequest(
            session_id=session_id,
            questions=questions,
            correction=pb.Correction(policy=pb.CORRECTION_POLICY_ALWAYS),
            mask_encoding=pb.MASK_ENCODING_COCO_RLE,
        )

    def amendments(self, session_id: str, made: Sequence[pb.RoundResult]) -> Iterator[pb.AmendRoundRequest]:
        """What puts a person's masks in their places again."""
        for index, result in enumerate(made):
            given = self.rounds[index].amended
            if given is not None:
                whole = pb.GivenMask(mask=self.masks[given.mask_digest], origin=given.origin)
                yield pb.AmendRoundRequest(session_id=session_id, round_id=result.round_id, given_mask=whole)

    def check_same(self, made: Sequence[pb.RoundResult]) -> None:
        """Raises FailedPrecondition unless all rounds are as they were."""
        for index, result in enumerate(made):
            known = self.rounds[index]
            if (result.answer, result.mask_digest) != (known.answer, known.mask_digest):
                raise FailedPrecondition(
                    f"the session was lost, and was not replayed: round {index} is answered in another way now"
                )

    def replayed(self, made: Sequence[pb.RoundResult]) -> dict[str, str]:
        """The rounds have other names from now on: each by its name before."""
        with self._lock:
            names = {self.rounds[index].round_id: result.round_id for index, result in enumerate(made)}
            for index, result in enumerate(made):
                self.rounds[index] = replace(self.rounds[index], round_id=result.round_id)
        return names

    def _questions(self) -> Iterator[pb.Question]:
        sent: set[bytes] = set()
        for index in range(len(self.rounds)):
            known = self.rounds[index]
            question = pb.Question()
            question.CopyFrom(known.question)
            question.ClearField("refer_to")
            self._refer(question, known.used, sent)
            if known.given:
                question.answer, question.answer_mode = known.answer, pb.ANSWER_MODE_FORCED
                question.seed_mask.CopyFrom(self.masks[known.mask_digest])
                sent.add(known.mask_digest)
            yield question

    def _refer(self, question: pb.Question, used: pb.ReferenceUsed | None, sent: set[bytes]) -> None:
        """To the mask that was used, whatever became of its round since; ``sent``: digests of those before."""
        if used is None:
            return
        if used.source != pb.REFERENCE_SOURCE_GIVEN and self.rounds[used.round].mask_digest == used.mask_digest:
            question.refer_to.round = used.round
            return
        question.given_mask.origin = used.origin
        if used.mask_digest in sent:
            question.given_mask.mask_digest = used.mask_digest
        else:
            question.given_mask.mask.CopyFrom(self.masks[used.mask_digest])
            sent.add(used.mask_digest)

    def give_up(self, why: str) -> None:
        """It is not replayed, now or later; nothing is kept for it."""
        with self._lock:
            self.rounds, self.masks, self.why_not = {}, {}, why
            self.image = Upload(self.image.header, b"")

    def _bound(self) -> None:
        if any(len(mask.data) > MAX_MASK_BYTES for mask in self.masks.values()):
            self.give_up(_TOO_LARGE)
        elif self.nbytes > MAX_BYTES:
            self.give_up(_TOO_MUCH)


def _known(of: pb.RoundSummary) -> KnownRound:
    """How it was asked is not told, but only the model's own words may come without a mask; others are given."""
    own = of.original if of.amended else of.mask
    origin = "" if of.amended or not of.seeded else of.origin
    question = pb.Question(text=of.question, seed_origin=origin, answer_mode=pb.ANSWER_MODE_FREE)
    if own.mask_digest:
        question.answer, question.answer_mode = of.answer, pb.ANSWER_MODE_FORCED
    used = of.reference if of.HasField("reference") else None
    amended = pb.GivenMask(mask_digest=of.mask.mask_digest, origin=of.origin) if of.amended else None
    return KnownRound(question, of.answer, of.round_id, own.mask_digest, own.area, used, amended)


def checked(image: Upload | None) -> Upload:
    """Raises InvalidArgument where there is none, or for one that is too large to be kept."""
    if image is None:
        words = "must be left out without an image: a session is opened anew on it"
        raise InvalidArgument(f"replay: {words}", (FieldViolation("replay", words),))
    if len(image.payload) > MAX_BYTES:
        words = f"must be left out where the image has more than {MAX_BYTES >> 20} MiB as it is sent"
        raise InvalidArgument(f"replay: {words}", (FieldViolation("replay", words),))
    return image
