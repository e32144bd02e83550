"""What the service refuses of a request, by the words and paths that it refuses it with.

Knows messages and a server's description. Does not know sessions or calls. The same rules as the server's own
(``serving.api``), from which this package may import nothing: tests/contract/test_service.py holds both against
each other.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from mediround._description import ServerDescription
from mediround._rounds import Mode, Priority
from mediround.errors import FieldViolation, InvalidArgument
from mediround.v1 import segmentation_pb2 as pb

SEG = "[SEG]"
_DIGEST_BYTES = 32
_MOST_NEAR_ZERO = 1
_MAX_ORIGIN_BYTES = 64
_MARKERS = (
    SEG, "[CROPPEDIMAGE]", "[BBOXINPUT]", "<image>", "<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]"
)  # fmt: skip
_UNTRAINED = (
    f"must be given in mode FORCED: this model was not trained on an answer template. Give the words with {SEG} "
    f'once ("It is the liver {SEG}."), or ask in mode FREE or GRAMMAR'
)
_REFUSED_CATEGORIES = {"Cc": "a control character", "Cs": "half of a surrogate pair"}
_MODES: dict[int, Mode] = {
    pb.ANSWER_MODE_FORCED: "forced",
    pb.ANSWER_MODE_GRAMMAR: "grammar",
    pb.ANSWER_MODE_FREE: "free",
}
_PRIORITIES: dict[int, Priority] = {
    pb.PRIORITY_UNSPECIFIED: "interactive",
    pb.PRIORITY_INTERACTIVE: "interactive",
    pb.PRIORITY_BATCH: "batch",
}


def invalid(field: str, description: str) -> InvalidArgument:
    """The refusal of one field."""
    return InvalidArgument(f"{field}: {description}", (FieldViolation(field, description),))


def check_round(request: pb.AskRoundRequest, served: ServerDescription) -> None:
    """Raises InvalidArgument."""
    _check_request(request.session_id, request.mask_encoding)
    _check_correction(request.correction)
    if request.correction.policy == pb.CORRECTION_POLICY_REFERENCED:
        raise invalid(
            "correction.policy",
            "must be ALWAYS or OFF for a single round: REFERENCED needs a dialogue known in advance",
        )
    _check_question(request.question, "question", request.session_id, served)


def check_dialogue(request: pb.SegmentDialogueRequest, served: ServerDescription) -> None:
    """Raises InvalidArgument."""
    _check_request(request.session_id, request.mask_encoding)
    limit = served.limits.max_rounds
    if not 1 <= len(request.questions) <= limit:
        raise invalid("questions", f"must hold 1 to {limit} questions")
    _check_correction(request.correction)
    for position, question in enumerate(request.questions):
        _check_question(question, f"questions[{position}]", request.session_id, served)


def check_room(questions: Sequence[pb.Question], first: int, max_rounds: int) -> None:
    """Raises InvalidArgument."""
    if first + len(questions) > max_rounds:
        raise invalid("questions", f"a session may hold at most {max_rounds} rounds; open a new one")


def check_references(questions: Sequence[pb.Question], first: int) -> None:
    """Questions against the rounds that their session has. Raises InvalidArgument."""
    for index, question in enumerate(questions, start=first):
        if question.HasField("refer_to") and question.refer_to.round >= index:
            words = f"must be the index of a round before round {index}; it is {question.refer_to.round}"
            if index == 0:
                words = "must be absent: the session has no earlier round to refer to"
            raise invalid(f"questions[{index - first}].refer_to", words)


def priority_of(priority: pb.Priority.ValueType, field: str = "priority") -> Priority:
    """Raises InvalidArgument."""
    if priority not in _PRIORITIES:
        raise invalid(field, "must be INTERACTIVE or BATCH")
    return _PRIORITIES[priority]


def mode_of(question: pb.Question, path: str, served: ServerDescription) -> Mode:
    """The mode that a question is answered in. Raises InvalidArgument."""
    if question.answer_mode == pb.ANSWER_MODE_UNSPECIFIED:
        return "free" if served.default_answer_mode == "free" and not question.answer else "forced"
    if question.answer_mode not in _MODES:
        raise invalid(f"{path}.answer_mode", "must be FORCED, GRAMMAR or FREE")
    return _MODES[question.answer_mode]


def _check_request(session_id: str, encoding: pb.MaskEncoding.ValueType) -> None:
    if not session_id:
        raise invalid("session_id", "must not be empty; open a session first")
    if encoding not in pb.MaskEncoding.values():
        raise invalid("mask_encoding", "must be COCO_RLE, PACKED_BITS or PNG")


def near_zero_of(request: pb.AskRoundRequest | pb.SegmentDialogueRequest) -> float | None:
    """Raises InvalidArgument."""
    if not request.HasField("near_zero"):
        return None
    if not 0 < request.near_zero <= _MOST_NEAR_ZERO:
        raise invalid("near_zero", f"must be above 0 and at most {_MOST_NEAR_ZERO}")
    return request.near_zero


def _check_correction(correction: pb.Correction) -> None:
    if correction.HasField("threshold"):
        threshold = correction.threshold
        if not math.isfinite(threshold) or not 0 <= threshold <= 1:
            raise invalid("correction.threshold", "must be between 0 and 1")
    if correction.policy not in pb.CorrectionPolicy.values():
        raise invalid("correction.policy", "must be ALWAYS, REFERENCED or OFF")


def _check_question(question: pb.Question, path: str, session_id: str, served: ServerDescription) -> None:
    limit = served.limits.max_question_bytes
    _check_words(f"{path}.text", question.text, limit)
    mode = mode_of(question, path, served)
    if question.answer and mode != "forced":
        raise invalid(f"{path}.answer", "may be set only in answer mode FORCED")
    if question.answer:
        _check_answer(f"{path}.answer", question.answer, limit)
    elif mode == "forced" and not served.answer_template_trained:
        raise invalid(f"{path}.answer", _UNTRAINED)
    _check_given(question, path, forced=mode == "forced")
    if question.refer_to.session_id not in {"", session_id}:
        raise invalid(f"{path}.refer_to.session_id", "must be empty or this session's id")


def _check_words(field: str, text: str, max_bytes: int) -> None:
    if not text.strip():
        raise invalid(field, "must not be empty")
    _check_characters(field, text, max_bytes)
    _check_markers(field, text)


def _check_answer(field: str, text: str, max_bytes: int) -> None:
    _check_characters(field, text, max_bytes)
    before, marker, after = text.partition(SEG)
    if not marker or SEG in after:
        raise invalid(field, f"a forced answer must hold {SEG} exactly once")
    _check_markers(field, before)
    _check_markers(field, after)


def _check_characters(field: str, text: str, max_bytes: int) -> None:
    size = len(text.encode(errors="surrogatepass"))
    if size > max_bytes:
        raise invalid(field, f"must hold at most {max_bytes} bytes of UTF-8; it holds {size}")
    for position, character in enumerate(text):
        refused = _REFUSED_CATEGORIES.get(unicodedata.category(character))
        if refused:
            raise invalid(field, f"must not hold {refused} (U+{ord(character):04X} at position {position})")


def _check_markers(field: str, text: str) -> None:
    folded = unicodedata.normalize("NFKC", text)
    for marker in _MARKERS:
        if marker in text or marker in folded:
            raise invalid(field, f"must not hold the reserved marker {marker}; rephrase it")


def check_digest(digest: bytes, path: str) -> None:
    """Raises InvalidArgument."""
    if len(digest) != _DIGEST_BYTES:
        raise invalid(path, f"must be the {_DIGEST_BYTES} bytes of a result's mask_digest")


def _check_given(question: pb.Question, path: str, *, forced: bool) -> None:
    """What can be said of a question without its session. Raises InvalidArgument."""
    if question.refer_to.mask_digest:
        check_digest(question.refer_to.mask_digest, f"{path}.refer_to.mask_digest")
    if question.HasField("given_mask") and question.HasField("refer_to"):
        words = "must be left out beside refer_to: a question is about one mask"
        raise invalid(f"{path}.given_mask", words)
    if question.seed_origin and not question.HasField("seed_mask"):
        raise invalid(f"{path}.seed_origin", "must be left out where no seed_mask is given")
    if question.HasField("seed_mask") and not question.answer:
        raise invalid(f"{path}.answer", "must be given with seed_mask: the model is not asked")
    if question.HasField("seed_mask") and not forced:
        raise invalid(f"{path}.answer_mode", "must be FORCED with seed_mask")
    check_origin(question.seed_origin, f"{path}.seed_origin")


def check_origin(origin: str, path: str) -> None:
    """Raises InvalidArgument."""
    if len(origin.encode()) > _MAX_ORIGIN_BYTES or not origin.isprintable():
        raise invalid(path, f"must be at most {_MAX_ORIGIN_BYTES} bytes of printable UTF-8")
