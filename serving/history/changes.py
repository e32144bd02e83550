"""Changes of a session's record: the next record, made of the last one. And what must hold before.

Pure. Knows rounds, masks and requests that come again. Does not know stores, engines or time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from serving.domain import CacheUse, KnownRound, Mask, Question, Timings
from serving.errors import InvalidInput, MovedOn, PreconditionFailed, Reason
from serving.history.record import RequestKey, RequestRecord, SessionRecord
from serving.history.rounds import Amendment, MaskSource, ReferredMask, Round, RoundResult

REQUESTS_REMEMBERED = 64
"""Of a session, the last ones."""
_PLAIN_BYTES = 1024
"""Of a round or a request, beside masks and crops: words, tokens, ids; an estimate."""
_UNSAID = KnownRound()


def with_rounds(
    record: SessionRecord, rounds: Sequence[Round], results: Sequence[RoundResult], key: RequestKey | None
) -> SessionRecord:
    """With rounds that were answered. Those of one request may come in several steps."""
    changed = _next(record, (*record.rounds, *rounds))
    before = earlier_request(record, key)
    return with_request(changed, key, (*(before.results if before else ()), *results))


def with_first_rounds(record: SessionRecord, count: int, key: RequestKey | None) -> SessionRecord:
    """With its first ``count`` rounds alone. Raises InvalidInput (``rounds``) where it has fewer."""
    return with_request(_next(record, _first(record, count)), key)


def with_amendment(
    record: SessionRecord, index: int, amendment: Amendment | None, key: RequestKey | None
) -> SessionRecord:
    """With another mask for the round at ``index``; None: its own again."""
    changed = replace(record.rounds[index], amendment=amendment)
    rounds = (*record.rounds[:index], changed, *record.rounds[index + 1 :])
    return with_request(_next(record, rounds), key, [untimed_result(index, changed)])


def told_again(record: SessionRecord, request: RequestRecord | None) -> list[RoundResult]:
    """What a request was answered with before, as it was; of each round is said whether it was amended since."""
    amended = {each.round_id: each.amendment for each in record.rounds}
    results = () if request is None else request.results
    return [replace(e, round=replace(e.round, amendment=amended.get(e.round.round_id))) for e in results]


def untimed_result(index: int, of: Round) -> RoundResult:
    """A round as an answer to what took no work."""
    return RoundResult(index, of, Timings(), CacheUse(False, 0, 0, 0))


def branch_of(
    record: SessionRecord, count: int | None, branch: SessionRecord, key: RequestKey | None
) -> SessionRecord:
    """``branch``, an empty record of another id, with this one's image and its first ``count`` rounds; None: all.

    Raises InvalidInput (``rounds``) where it has fewer.
    """
    rounds = record.rounds if count is None else _first(record, count)
    begun = replace(branch, root=record.dialogue, content=record.content, window=record.window, rounds=rounds)
    return with_request(begun, key)


def with_request(
    record: SessionRecord, key: RequestKey | None, results: Iterable[RoundResult] = ()
) -> SessionRecord:
    """The same, knowing the request when it comes again; ``results``: the rounds that answer it, of which crops
    are not kept, for they are in no answer.
    """
    if key is None:
        return record
    others = [each for each in record.requests if each.key.id != key.id]
    answers = tuple(replace(each, round=replace(each.round, reference=None)) for each in results)
    known = RequestRecord(key, len(record.rounds), answers)
    return replace(record, requests=(*others, known)[-REQUESTS_REMEMBERED:])


def earlier_request(record: SessionRecord, key: RequestKey | None) -> RequestRecord | None:
    """What the request was answered with before; None: it is new.

    Raises:
        PreconditionFailed: its id stands for another request.
    """
    match = next((each for each in record.requests if key is not None and each.key.id == key.id), None)
    if match is not None and match.key != key:
        raise PreconditionFailed(
            "this x-request-id stands for another request: each request must have its own",
            Reason.IDEMPOTENCY_MISMATCH,
        )
    return match


def check_expected(record: SessionRecord, expected: int | None) -> None:
    """Raises MovedOn unless the session has as many rounds as its caller thinks; None: does not say."""
    if expected is not None and expected != len(record.rounds):
        raise MovedOn(
            f"the session has {len(record.rounds)} rounds, not {expected}: read it (GetSession), then decide again"
        )


def check_unmoved(record: SessionRecord, results: Sequence[RoundResult]) -> None:
    """Raises MovedOn unless the session still ends with what a request was answered with, so that it may go on."""
    known = [result.round.round_id for result in results]
    if known and [each.round_id for each in record.rounds[-len(known) :]] != known:
        raise MovedOn(
            f"{len(known)} rounds of this request were answered, and the session has changed since: "
            "the others must be asked anew"
        )


def index_of(record: SessionRecord, round_id: str) -> int:
    """Of a round. Raises PreconditionFailed (STALE) where there is none of this id, or none any more."""
    match = next((index for index, each in enumerate(record.rounds) if each.round_id == round_id), None)
    if match is None:
        raise PreconditionFailed("the session has no round of this round_id: it was undone", Reason.STALE)
    return match


def check_known(record: SessionRecord, question: Question) -> None:
    """Raises PreconditionFailed (STALE) where the round referred to is not what the caller takes it for."""
    known, index = question.expected_round, question.refer_to
    if index is None or known == _UNSAID:
        return
    of = record.rounds[index] if index < len(record.rounds) else None
    if of is None or known.round_id not in {"", of.round_id}:
        raise PreconditionFailed(f"round {index} is not the one referred to, which was undone", Reason.STALE)
    if known.mask_digest and (of.mask is None or known.mask_digest != of.mask.digest):
        raise PreconditionFailed(f"the mask of round {index} is not the one referred to any more", Reason.STALE)


def referred_mask(record: SessionRecord, question: Question) -> ReferredMask | None:
    """The mask that a question is about; None for one that is about none.

    Raises:
        PreconditionFailed: the round referred to has no mask.
    """
    given, index = question.given_mask, question.refer_to
    if given is not None and given.mask is not None:
        return ReferredMask(given.mask, MaskSource.GIVEN, 0, "", given.origin)
    if index is None:
        return None
    of = record.rounds[index]
    if of.mask is None:
        raise PreconditionFailed(f"round {index} has no mask to refer to", Reason.NO_MASK)
    if of.amendment is not None:
        return ReferredMask(of.mask, MaskSource.AMENDED, index, of.round_id, of.amendment.origin)
    return ReferredMask(of.mask, MaskSource.ROUND, index, of.round_id, of.origin)


def with_masks(record: SessionRecord, questions: Iterable[Question]) -> list[Question]:
    """Questions whose given masks are all there: those named by their digest are ones that the session holds, or
    that came with an earlier question.

    Raises:
        PreconditionFailed: it holds none of this digest.
    """
    there, complete = held_masks(record), []
    for question in questions:
        given = question.given_mask
        if given is not None:
            mask = given.mask or there.get(given.digest)
            if mask is None:
                raise mask_not_held()
            there[mask.digest] = mask
            question = replace(question, given_mask=replace(given, mask=mask))  # noqa: PLW2901  # the same, with its mask
        if question.seed_mask is not None:
            there[question.seed_mask.digest] = question.seed_mask
        complete.append(question)
    return complete


def held_masks(record: SessionRecord) -> dict[bytes, Mask]:
    """By digest, all masks of the rounds that there are: as they are, as they were made, as they were used."""
    return {mask.digest: mask for each in record.rounds for mask in each.masks}


def all_masks(record: SessionRecord) -> Iterator[Mask]:
    """Of its rounds, and of what requests are answered with again."""
    for each in record.rounds:
        yield from each.masks
    for request in record.requests:
        for result in request.results:
            yield from result.masks


def mask_not_held() -> PreconditionFailed:
    return PreconditionFailed(
        "the session holds no mask of this digest: the mask must be sent", Reason.MASK_NOT_HELD
    )


def nbytes(record: SessionRecord) -> int:
    """Bytes that it holds beside the image: each mask and each crop once, whatever shares them within it. One that
    was made twice is held twice.
    """
    answered = [result for request in record.requests for result in request.results]
    rounds = [*record.rounds, *(result.round for result in answered)]
    masks = {id(mask.packed): mask.packed.nbytes for mask in all_masks(record)}
    shown = (each.reference.crop for each in rounds if each.reference is not None)
    crops = {id(crop.pixels): crop.pixels.nbytes for crop in shown}
    plain = _PLAIN_BYTES * (len(rounds) + len(record.requests))
    return sum(masks.values()) + sum(crops.values()) + plain


def _first(record: SessionRecord, count: int) -> tuple[Round, ...]:
    if count > len(record.rounds):
        raise InvalidInput("rounds", f"must be at most the {len(record.rounds)} that the session has")
    return record.rounds[:count]


def _next(record: SessionRecord, rounds: tuple[Round, ...]) -> SessionRecord:
    return replace(record, rounds=rounds, version=record.version + 1)
