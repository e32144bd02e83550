"""What a result is made of: rectangles, times and counts.

Knows the public values. Does not know messages or masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, in pixels of the image; the maxima are inclusive.

    Attributes:
        x_min: leftmost column; columns count from the left, from 0.
        y_min: uppermost row; rows count from the top, from 0.
        x_max: rightmost column, inclusive.
        y_max: lowest row, inclusive.
    """

    x_min: int
    y_min: int
    x_max: int
    y_max: int


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model was shown of the mask referred to.

    Attributes:
        index: zero-based index of the round referred to, in its session; None: the mask was given with the
            question.
        crop: rectangle cut out of the image as the crop.
        box: rectangle shown as the box.
        whole_image: whether the mask covered (almost) nothing visible, so that the whole image stood in for it.
        source: ``round``: the mask that the round was answered with; ``amended``: a person's in its place;
            ``given``: one that came with the question.
        origin: where a given, amended or seeded mask came from, in the words of the program that gave it.
        round_id: of the round referred to; empty where there is none, or the server is an older one.
        mask_digest: of the mask that was used, hex, whatever became of the round since.
    """

    index: int | None
    crop: Box
    box: Box
    whole_image: bool
    source: Literal["round", "given", "amended"] = "round"
    origin: str = ""
    round_id: str = ""
    mask_digest: str = ""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a round's time went on the server, in seconds. Stages overlap: their sum may exceed ``total``.

    Attributes:
        queue: from arrival to the start of work: earlier rounds of the session, and a place.
        prepare: prompt, crops and boxes.
        language: reading the dialogue and answering.
        encode: waiting for the image's embedding; 0 when it was held.
        decode: from the feature to the mask's logits.
        postprocess: from logits to the mask of the image's size.
        total: from arrival to the result.
    """

    queue: float
    prepare: float
    language: float
    encode: float
    decode: float
    postprocess: float
    total: float


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What the server had already computed for a round.

    Attributes:
        embedding_hit: whether the image's embedding was held, and so not computed for this round.
        cached_tokens: those of ``prompt_tokens`` that were not computed again.
        prompt_tokens: tokens that the language model was given, image tokens included.
        wave: zero-based index of the language pass within its request; rounds of one wave share a pass.
    """

    embedding_hit: bool
    cached_tokens: int
    prompt_tokens: int
    wave: int
