"""A script: what a server for tests says of itself, and what it answers to each question.

Knows the public values that a test writes and reads. Does not know messages, calls or servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mediround._description import Limits, ServerDescription
from mediround._records import EngineRecord, PixelRecord, RuntimeRecord
from mediround._rounds import Mode, Priority
from mediround.errors import MediRoundError

Bits = npt.NDArray[np.bool_]

DESCRIPTION = ServerDescription(
    model_name="scripted",
    model_version="0",
    model_digest="5c" * 32,
    server_version="mediround.testing",
    intended_use="Tests of programs that use a MediRound server.",
    limits=Limits(
        max_image_bytes=64 << 20,
        max_image_pixels=1 << 26,
        max_aspect_ratio=10,
        max_rounds=32,
        max_question_bytes=2048,
        max_tokens=4096,
        max_sessions=1000,
        session_idle_timeout=900.0,
        session_lifetime=86400.0,
        max_given_mask_bytes=2 << 20,
        max_requests_remembered=64,
    ),
    answer_modes=("forced", "grammar", "free"),
    default_answer_mode="free",
    correction_policies=("always", "referenced", "off"),
    mask_encodings=("coco_rle", "packed_bits", "png"),
    has_judge=True,
    threshold=0.5,
    answer_template="It is [SEG].",
    answer_template_trained=True,
    language_engine="scripted",
    vision_engine="scripted",
    pixel_types=("uint8", "uint16", "int16"),
    engine_records=(
        EngineRecord(
            digest="e5" * 32,
            model_name="scripted",
            model_version="0",
            model_digest="5c" * 32,
            server_version="mediround.testing",
            pixels=PixelRecord(),
            language=RuntimeRecord("scripted"),
            image_encoder=RuntimeRecord("scripted"),
            mask_decoder=RuntimeRecord("scripted"),
        ),
    ),
)
"""What a scripted server says of itself; ``dataclasses.replace`` changes it. Its first record is each round's."""


def centre(height: int, width: int) -> Bits:
    """A mask, bool (H, W): the middle half of the rows and of the columns; of one pixel at least."""
    mask = np.zeros((height, width), np.bool_)
    mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    return mask


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question as it arrived at a scripted server.

    Attributes:
        session_id: the session asked.
        index: zero-based index that the round has in its session if it is answered.
        text: the question's words.
        refer_to: zero-based index of the round referred to; None: of none.
        mode: how it is answered, the server's default filled in.
        answer: the answer's words where they were given, else empty.
        priority: how it queues where a server is busy.
        height: of the session's image, in pixels.
        width: the same.
        given_mask: the mask that came with it, bool (H, W); None: none did.
    """

    session_id: str
    index: int
    text: str
    refer_to: int | None
    mode: Mode
    answer: str
    priority: Priority
    height: int
    width: int
    given_mask: Bits | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a question yields. The defaults are a good mask in the middle of the image, at once.

    Attributes:
        mask: bool (H, W) of the image's size, or a function of (height, width) that makes it. None: the model
            sees nothing; a question in mode ``free`` then has no mask, in another mode an empty one.
        words: the model's own words; ``[SEG]`` follows where there is a mask and they have none. Empty: the
            model's template, or a sentence that says that nothing is seen. A given answer wins.
        score: the judge's estimate, 0 to 1; where the policy applies, one of at most the threshold is corrected.
        seg_probability: the model's own probability of ``[SEG]``, 0 to 1.
        near_zero: what is told where a question asks for ``near_zero``: bool (H, W), or a function of (height,
            width) that makes it. None: no pixel is so near to 0.
        delay: seconds until it comes.
        lost: the round is answered, and the connection breaks before the answer arrives.
    """

    mask: Bits | Callable[[int, int], Bits] | None = centre
    words: str = ""
    score: float = 0.9
    seg_probability: float = 1.0
    near_zero: Bits | Callable[[int, int], Bits] | None = None
    delay: float = 0.0
    lost: bool = False


class AnswerLost(Exception):
    """What was asked is done, and nobody is told: the connection breaks."""


Reply: TypeAlias = Answer | MediRoundError
"""An answer, or the error that the client is to raise: ``Unavailable("starting", retry_after=0.1)``."""
Answers: TypeAlias = Mapping[str, Reply | Sequence[Reply]] | Callable[[AskedQuestion], Reply]
"""By the question's words: one reply for every time, or several in turn, of which the last stays. Or a function,
called in the server's thread.
"""


@dataclass(frozen=True, slots=True)
class Script:
    """What a scripted server does.

    Attributes:
        answers: what each question yields.
        otherwise: what a question yields that ``answers`` does not name.
        openings: errors of the first openings, in turn; later ones succeed.
        failures: the same of other calls, by the contract's names: ``{"RewindSession": [MovedOn("...")]}``.
        description: the model, its modes and the limits that requests are held against.
    """

    answers: Answers = field(default_factory=dict)
    otherwise: Reply = Answer()  # frozen
    openings: Sequence[MediRoundError] = ()
    failures: Mapping[str, Sequence[MediRoundError]] = field(default_factory=dict)
    description: ServerDescription = DESCRIPTION
