"""Questions as they are sent, and results as they are read."""

from __future__ import annotations

import numpy as np
import pytest

from mediround import InvalidArgument, ProtocolMismatch, Round, RoundResult, rle
from mediround._given import Names
from mediround._rounds import ask_request, segment_request
from mediround.results import Opening, round_result
from mediround.v1 import segmentation_pb2 as pb

OPENED = Opening("mine", 4, 6, False, "d" * 64)


def result(session_id: str = "mine", index: int = 2) -> RoundResult:
    opened = Opening(session_id, 4, 6, False, "")
    return round_result(pb.RoundResult(round=index), opened)


def masked(**changes: object) -> pb.RoundResult:
    bits = np.zeros((4, 6), np.bool_)
    bits[1:3, 2:5] = True
    fields = {
        "height": 4,
        "width": 6,
        "encoding": pb.MASK_ENCODING_COCO_RLE,
        "data": rle.encode(bits),
        "area": 6,
        "box": pb.PixelBox(x_min=2, y_min=1, x_max=4, y_max=2),
    }
    return pb.RoundResult(mask=pb.Mask(**(fields | changes)))


def test_a_question_and_no_more() -> None:
    request = ask_request(Names("mine"), Round("Segment the liver."), "always", None)
    assert request.question == pb.Question(text="Segment the liver.")
    assert not request.correction.HasField("threshold")
    assert request.correction.policy == pb.CORRECTION_POLICY_ALWAYS


def test_everything_said() -> None:
    asked = Round("Segment it.", refer_to=1, mode="forced", answer="Here: [SEG].")
    request = segment_request(Names("mine"), [asked], "referenced", 0.5)
    assert request.questions[0] == pb.Question(
        text="Segment it.",
        refer_to=pb.RoundReference(round=1),
        answer_mode=pb.ANSWER_MODE_FORCED,
        answer="Here: [SEG].",
    )
    assert request.correction == pb.Correction(policy=pb.CORRECTION_POLICY_REFERENCED, threshold=0.5)


def test_the_first_round_is_a_reference_too() -> None:
    assert ask_request(Names("mine"), Round("It.", refer_to=0), "off", None).question.HasField("refer_to")


def test_a_result_names_its_session() -> None:
    request = ask_request(Names("mine"), Round("It.", refer_to=result()), "off", None)
    assert request.question.refer_to == pb.RoundReference(round=2, session_id="mine")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Round("It.", refer_to=result("another")), "questions[1].refer_to"),
        (Round("It.", refer_to=-1), "questions[1].refer_to"),
        (Round("It.", refer_to=2**32), "questions[1].refer_to"),
        (Round("It.", mode="loud"), "questions[1].answer_mode"),
        (Round("half \ud83d"), "questions[1].text"),
        (Round("It.", answer="\udc80 [SEG]"), "questions[1].answer"),
    ],
)
def test_what_no_server_could_serve(asked: Round, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        segment_request(Names("mine"), [Round("Segment the liver."), asked], "always", None)
    assert caught.value.violations[0].field == field


def test_a_policy_that_is_none() -> None:
    with pytest.raises(InvalidArgument, match="always, referenced, off"):
        ask_request(Names("mine"), Round("It."), "sometimes", None)


def test_a_mask_is_read() -> None:
    read = round_result(masked(), OPENED)
    assert read.mask.sum() == read.area == 6
    assert read.mask[1, 2]
    assert read.mask[2, 4]
    assert (read.box.x_min, read.box.y_min, read.box.x_max, read.box.y_max) == (2, 1, 4, 2)


def test_absent_is_not_zero() -> None:
    read = round_result(pb.RoundResult(), OPENED)
    assert (read.mask, read.box, read.score, read.seg_probability, read.reference) == (None,) * 5
    zero = round_result(pb.RoundResult(score=0.0, seg_probability=0.0), OPENED)
    assert (zero.score, zero.seg_probability) == (0.0, 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 2**32 - 1, "width": 2**32 - 1},
        {"height": 6, "width": 4},
        {"data": b"\xff"},
        {"data": b""},
        {"encoding": pb.MASK_ENCODING_PNG},
        {"encoding": 99},
    ],
)
def test_a_mask_that_does_not_fit(changes: dict[str, object]) -> None:
    with pytest.raises(ProtocolMismatch):
        round_result(masked(**changes), OPENED)
