"""What is asked: rounds, and the requests that carry them.

Knows the public words of a question and how they stand in messages. Does not know calls or sessions' lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, TypeAlias

from mediround._given import GivenMask, Names, Referred, checked_origin, mask_message, referred, refused
from mediround.v1 import segmentation_pb2 as pb

Mode: TypeAlias = Literal["forced", "grammar", "free"]
"""``forced``: the answer's words are given. ``free``: the model's own words, perhaps without a mask; ``grammar``:
the same, but always with one."""
LiveCorrection: TypeAlias = Literal["always", "off"]
DialogueCorrection: TypeAlias = Literal["always", "referenced", "off"]
"""``referenced``: the rounds that a later one refers to are judged, as the published evaluation does."""

Priority: TypeAlias = Literal["interactive", "batch"]
"""``batch`` takes what interactive requests leave of a busy server, and may wait longer."""

_MODES: dict[str | None, pb.AnswerMode.ValueType] = {
    None: pb.ANSWER_MODE_UNSPECIFIED,
    "forced": pb.ANSWER_MODE_FORCED,
    "grammar": pb.ANSWER_MODE_GRAMMAR,
    "free": pb.ANSWER_MODE_FREE,
}
_POLICIES: dict[str, pb.CorrectionPolicy.ValueType] = {
    "always": pb.CORRECTION_POLICY_ALWAYS,
    "referenced": pb.CORRECTION_POLICY_REFERENCED,
    "off": pb.CORRECTION_POLICY_OFF,
}
_PRIORITIES: dict[str, pb.Priority.ValueType] = {
    "interactive": pb.PRIORITY_INTERACTIVE,
    "batch": pb.PRIORITY_BATCH,
}


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One question of a dialogue known in advance.

    Attributes:
        question: what to segment, in words.
        refer_to: what the question is about: an earlier round of the same session, as its result or its
            zero-based index in the session; or a mask of your own, bool or uint8 (H, W).
        mode: None: forced when an answer is given, else the model's default.
        answer: the answer's words, ``[SEG]`` exactly once. None in mode ``forced``: the model's template, if
            ``client.describe().answer_template_trained``; else the round is refused.
        origin: where a mask in ``seed``, else in ``refer_to``, comes from, for you: it comes back in
            ``result.reference``, a seed's in ``session.history()``; at most 64 bytes.
        seed: a mask, bool or uint8 (H, W): the round is taken as it is, with its ``answer``, and the model is not
            asked.
    """

    question: str
    refer_to: Referred | None = None
    mode: Mode | None = None
    answer: str | None = None
    origin: str = ""
    seed: GivenMask | None = None


def ask_request(
    names: Names,
    asked: Round,
    correction: LiveCorrection,
    threshold: float | None,
    priority: Priority = "interactive",
    *,
    near_zero: float | None = None,
) -> pb.AskRoundRequest:
    """Raises InvalidArgument for what no server could serve."""
    return pb.AskRoundRequest(
        session_id=names.session_id,
        question=_question(names, asked, "question"),
        correction=_correction(correction, threshold),
        mask_encoding=pb.MASK_ENCODING_COCO_RLE,
        priority=priority_value(priority),
        near_zero=_near_zero(near_zero),
    )


def segment_request(
    names: Names,
    rounds: Sequence[Round],
    correction: DialogueCorrection,
    threshold: float | None,
    priority: Priority = "interactive",
    *,
    near_zero: float | None = None,
    progress: bool = False,
) -> pb.SegmentDialogueRequest:
    """Raises InvalidArgument for what no server could serve."""
    return pb.SegmentDialogueRequest(
        session_id=names.session_id,
        questions=[_question(names, asked, f"questions[{i}]") for i, asked in enumerate(checked_rounds(rounds))],
        correction=_correction(correction, threshold),
        mask_encoding=pb.MASK_ENCODING_COCO_RLE,
        priority=priority_value(priority),
        progress=progress,
        near_zero=_near_zero(near_zero),
    )


def checked_rounds(rounds: object) -> list[Round]:
    """Raises InvalidArgument for anything but Rounds, one after the other."""
    if isinstance(rounds, Iterable) and not isinstance(rounds, str | bytes | Mapping):
        each = list(rounds)
        for number, asked in enumerate(each):
            if not isinstance(asked, Round):
                raise refused(f"questions[{number}]", f"must be a Round, not a {type(asked).__name__}")
        return each
    raise refused("questions", f"must be a list of Round, not a {type(rounds).__name__}")


def _question(names: Names, asked: Round, path: str) -> pb.Question:
    if not (asked.mode is None or isinstance(asked.mode, str)) or asked.mode not in _MODES:
        raise refused(f"{path}.answer_mode", f"must be one of {', '.join(filter(None, _MODES))}, or None")
    seeded = asked.seed is not None
    reference, given = referred(names, asked.refer_to, "" if seeded else asked.origin, path)
    return pb.Question(
        text=_text(asked.question, f"{path}.text"),
        refer_to=reference,
        answer_mode=_MODES[asked.mode],
        answer="" if asked.answer is None else _text(asked.answer, f"{path}.answer"),
        given_mask=given,
        seed_mask=mask_message(asked.seed, f"{path}.seed_mask") if seeded else None,
        seed_origin=checked_origin(asked.origin, f"{path}.seed_origin") if seeded else "",
    )


def _correction(policy: object, threshold: object) -> pb.Correction:
    if not isinstance(policy, str) or policy not in _POLICIES:
        raise refused("correction.policy", f"must be one of {', '.join(_POLICIES)}")
    return pb.Correction(policy=_POLICIES[policy], threshold=_threshold(threshold))


def _threshold(threshold: object) -> float | None:
    if threshold is None:
        return None
    if isinstance(threshold, Real) and not isinstance(threshold, bool) and 0 <= float(threshold) <= 1:
        return float(threshold)
    raise refused("correction.threshold", "must be between 0 and 1, or None")


def _near_zero(margin: object) -> float | None:
    if margin is None:
        return None
    if isinstance(margin, Real) and not isinstance(margin, bool) and 0 < float(margin) <= 1:
        return float(margin)
    raise refused("near_zero", "must be above 0 and at most 1, or None")


def priority_value(priority: object) -> pb.Priority.ValueType:
    """As the contract has it. Raises InvalidArgument for any other value."""
    if not isinstance(priority, str) or priority not in _PRIORITIES:
        raise refused("priority", f"must be one of {', '.join(_PRIORITIES)}")
    return _PRIORITIES[priority]


def _text(words: object, path: str) -> str:
    if not isinstance(words, str):
        raise refused(path, f"must be a text, not a {type(words).__name__}")
    try:
        words.encode()
    except UnicodeEncodeError:
        raise refused(path, "must be valid Unicode: it holds half of a surrogate pair") from None
    return words
