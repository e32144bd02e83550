"""What is asked: rounds, and the requests that carry them.

Knows the public words of a question and how they stand in messages. Does not know calls or sessions' lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, TypeAlias

from mediround.errors import FieldViolation, InvalidArgument
from mediround.results import RoundResult
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


@dataclass(frozen=True, slots=True)
class Round:
    """One question of a dialogue known in advance.

    Attributes:
        question: what to segment, in words.
        refer_to: an earlier round of the same session whose mask the question is about: its result, or its
            zero-based index in the session.
        mode: None: forced when an answer is given, else the model's default.
        answer: the answer's words, ``[SEG]`` exactly once. None in mode ``forced``: the model's template, if
            ``client.describe().answer_template_trained``; else the round is refused.
    """

    question: str
    refer_to: RoundResult | int | None = None
    mode: Mode | None = None
    answer: str | None = None


def ask_request(
    session_id: str,
    asked: Round,
    correction: LiveCorrection,
    threshold: float | None,
    priority: Priority = "interactive",
) -> pb.AskRoundRequest:
    """Raises InvalidArgument for what no server could serve."""
    return pb.AskRoundRequest(
        session_id=session_id,
        question=_question(session_id, asked, "question"),
        correction=_correction(correction, threshold),
        mask_encoding=pb.MASK_ENCODING_COCO_RLE,
        priority=priority_value(priority),
    )


def segment_request(
    session_id: str,
    rounds: Sequence[Round],
    correction: DialogueCorrection,
    threshold: float | None,
    priority: Priority = "interactive",
) -> pb.SegmentDialogueRequest:
    """Raises InvalidArgument for what no server could serve."""
    return pb.SegmentDialogueRequest(
        session_id=session_id,
        questions=[
            _question(session_id, asked, f"questions[{i}]") for i, asked in enumerate(checked_rounds(rounds))
        ],
        correction=_correction(correction, threshold),
        mask_encoding=pb.MASK_ENCODING_COCO_RLE,
        priority=priority_value(priority),
    )


def checked_rounds(rounds: object) -> list[Round]:
    """Raises InvalidArgument for anything but Rounds, one after the other."""
    if isinstance(rounds, Iterable) and not isinstance(rounds, str | bytes | Mapping):
        each = list(rounds)
        for number, asked in enumerate(each):
            if not isinstance(asked, Round):
                raise _refused(f"questions[{number}]", f"must be a Round, not a {type(asked).__name__}")
        return each
    raise _refused("questions", f"must be a list of Round, not a {type(rounds).__name__}")


def _question(session_id: str, asked: Round, path: str) -> pb.Question:
    if not (asked.mode is None or isinstance(asked.mode, str)) or asked.mode not in _MODES:
        raise _refused(f"{path}.answer_mode", f"must be one of {', '.join(filter(None, _MODES))}, or None")
    return pb.Question(
        text=_text(asked.question, f"{path}.text"),
        refer_to=_reference(session_id, asked.refer_to, f"{path}.refer_to"),
        answer_mode=_MODES[asked.mode],
        answer="" if asked.answer is None else _text(asked.answer, f"{path}.answer"),
    )


def _reference(session_id: str, refer_to: object, path: str) -> pb.RoundReference | None:
    match refer_to:
        case None:
            return None
        case RoundResult():
            if refer_to.session_id != session_id:
                raise _refused(path, "must be a result of this session: ask in the session that it came from")
            return pb.RoundReference(round=refer_to.index, session_id=session_id)
        case _:
            return pb.RoundReference(round=_index(refer_to, path))


def _index(number: object, path: str) -> int:
    """Of an earlier round: any whole number, numpy's too, but no truth value."""
    if isinstance(number, Integral) and not isinstance(number, bool) and 0 <= int(number) < 1 << 32:
        return int(number)
    raise _refused(path, "must be a result of this session, or the zero-based index of an earlier round")


def _correction(policy: object, threshold: object) -> pb.Correction:
    if not isinstance(policy, str) or policy not in _POLICIES:
        raise _refused("correction.policy", f"must be one of {', '.join(_POLICIES)}")
    return pb.Correction(policy=_POLICIES[policy], threshold=_threshold(threshold))


def _threshold(threshold: object) -> float | None:
    if threshold is None:
        return None
    if isinstance(threshold, Real) and not isinstance(threshold, bool) and 0 <= float(threshold) <= 1:
        return float(threshold)
    raise _refused("correction.threshold", "must be between 0 and 1, or None")


def priority_value(priority: object) -> pb.Priority.ValueType:
    """As the contract has it. Raises InvalidArgument for any other value."""
    if not isinstance(priority, str) or priority not in _PRIORITIES:
        raise _refused("priority", f"must be one of {', '.join(_PRIORITIES)}")
    return _PRIORITIES[priority]


def _text(words: object, path: str) -> str:
    if not isinstance(words, str):
        raise _refused(path, f"must be a text, not a {type(words).__name__}")
    try:
        words.encode()
    except UnicodeEncodeError:
        raise _refused(path, "must be valid Unicode: it holds half of a surrogate pair") from None
    return words


def _refused(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {description}", (FieldViolation(field, description),))
