"""The words of the domain as values: images, masks, references, questions, and what is measured of a round.

Knows shapes and invariants. Does not know rounds, sessions (``serving.history``), tokens' text, engines or gRPC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

import numpy as np
import numpy.typing as npt

from serving.bundle import TowerSpec
from serving.runtime.record import RuntimeRecord
from serving.runtime.stopwatch import Stopwatch

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Bits = npt.NDArray[np.bool_]

NO_CORRECTION = -1.0
"""Threshold that no score reaches: the feature stays as it is."""


class AnswerMode(Enum):
    FORCED = auto()
    """The answer's words are given; the feature is read before its ``[SEG]``."""
    GRAMMAR = auto()
    """The model answers in its own words; where they would end without ``[SEG]``, it stands there all the same."""
    FREE = auto()
    """The model answers in its own words; it may answer without ``[SEG]``."""


class Priority(Enum):
    INTERACTIVE = auto()
    """A person waits for the answer."""
    BATCH = auto()
    """It takes what interactive requests leave."""


class CorrectionPolicy(Enum):
    ALWAYS = auto()
    REFERENCED = auto()
    OFF = auto()


@dataclass(frozen=True, slots=True)
class Correction:
    policy: CorrectionPolicy
    threshold: float
    """Scores at most this are corrected, where the policy applies."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """In pixels, maxima inclusive."""

    x_min: int
    y_min: int
    x_max: int
    y_max: int


@dataclass(frozen=True, slots=True)
class TowerImage:
    """Input of the vision tower: uint8 RGB (P, P, 3), resized and cropped; ``digest`` of those pixels."""

    digest: str
    pixels: U8

    def normalised(self, spec: TowerSpec) -> F32:
        """The tower's input: float32 (3, P, P); scaled to 0..1, then (x - mean) / std."""
        scaled = self.pixels.astype(np.float32) * np.float32(0.00392156862745098)
        normal = (scaled - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))


@dataclass(frozen=True, slots=True)
class EncoderImage:
    """Input of the image encoder: RGB uint8 (S, S, 3), image at the top left, else zeros; its embedding's key."""

    key: str
    pixels: U8
    valid_hw: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ContentAddress:
    """The bytes that an image is read from, and how: equal addresses are the same image, to the pixel."""

    form: str
    """``file``, whose format is its own, or the type and shape of bare pixels."""
    digest: bytes
    """SHA-256 of the bytes."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image, and the name of its embedding: all that encoding it takes."""

    pixels: U8
    """RGB (H, W, 3), or (H, W) where all three channels are the same. Read-only: sessions share it."""
    embedding_key: str
    """Content address of its embedding: the image's own, encoder digest and preprocessing."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, slots=True)
class SourceImage(DecodedImage):
    """A session's image, and what every round needs of it."""

    tower: TowerImage

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes + self.tower.pixels.nbytes


@dataclass(frozen=True, slots=True)
class Reference:
    """A mask as the language half sees it: a crop (one token) and a box (one token)."""

    round: int
    """Whose mask it is; 0 where it was given with the question."""
    crop: TowerImage
    crop_rectangle: Rectangle
    box: F32
    """(4,): x_min / W, y_min / H, x_max / W, y_max / H; inclusive maxima."""
    box_rectangle: Rectangle
    whole_image: bool


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask of the image's own size, packed: one bit a pixel."""

    packed: U8
    size: tuple[int, int]
    area: int
    box: Rectangle | None
    digest: bytes
    """SHA-256 of size and bits, as the contract says: equal masks have equal ones."""

    def bits(self) -> Bits:
        """bool (H, W)."""
        return np.unpackbits(self.packed, count=self.size[0] * self.size[1]).reshape(self.size).view(np.bool_)

    def part(self) -> Bits:
        """What lies in its box, bool (h, w): all that is set. (0, 0) where nothing is."""
        if self.box is None:
            return np.zeros((0, 0), np.bool_)
        width, rows = self.size[1], self.box.y_max - self.box.y_min + 1
        first, bits_before = divmod(self.box.y_min * width, 8)
        flat = np.unpackbits(self.packed[first:], count=bits_before + rows * width)[bits_before:]
        return flat.reshape(rows, width)[:, self.box.x_min : self.box.x_max + 1].view(np.bool_)


@dataclass(frozen=True, slots=True)
class KnownRound:
    """What a caller takes the round that it refers to for; empty: it does not say."""

    round_id: str = ""
    mask_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class GivenMask:
    """A mask that the model did not make, and where the caller has it from."""

    digest: bytes
    mask: Mask | None
    """None: one that the session holds, by its digest."""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a dialogue; ``refer_to`` counts from the session's first round."""

    text: str
    refer_to: int | None
    mode: AnswerMode
    answer: str = ""
    """Forced mode: the words, ``[SEG]`` exactly once."""
    expected_round: KnownRound = KnownRound()
    """What ``refer_to`` must be."""
    given_mask: GivenMask | None = None
    """What the question is about in place of a round."""
    seed_mask: Mask | None = None
    """The round's mask, which is given: the model is not asked. Forced, with an answer."""
    seed_origin: str = ""
    """Where the caller has it from."""

    @property
    def refers(self) -> bool:
        """Whether it is about a mask."""
        return self.refer_to is not None or self.given_mask is not None


@dataclass(frozen=True, slots=True)
class SegFeature:
    """The language half's result at one ``[SEG]``."""

    vector: F32
    """(256,), raw: before correction."""
    log_probability: float
    """Of ``[SEG]`` at its position, natural logarithm."""


StageName = Literal["queue", "prepare", "language", "encode", "decode", "postprocess", "total"]


@dataclass(slots=True)
class Timings:
    """Seconds a stage took. Stages overlap: their sum may exceed ``total``."""

    queue: float = 0.0
    prepare: float = 0.0
    language: float = 0.0
    encode: float = 0.0
    decode: float = 0.0
    postprocess: float = 0.0
    total: float = 0.0

    @contextmanager
    def stage(self, name: StageName) -> Iterator[None]:
        """Add what the block takes to the stage ``name``."""
        with Stopwatch() as watch:
            yield
        setattr(self, name, getattr(self, name) + watch.seconds)


@dataclass(frozen=True, slots=True)
class CacheUse:
    embedding_hit: bool
    cached_tokens: int
    prompt_tokens: int
    wave: int


@dataclass(frozen=True, slots=True)
class Runtimes:
    """What computes a round; in a round without a mask, what would have drawn it."""

    language: RuntimeRecord
    image_encoder: RuntimeRecord
    mask_decoder: RuntimeRecord


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The mask of a round and how sure the model is of it."""

    mask: Mask
    score: float | None
    """The judge's, of the raw feature; None for a model without a judge, and for a mask that was given."""
    corrected: bool
    log_probability: float | None
    """Of ``[SEG]``; None for a mask that was given."""


class WorkStage(Enum):
    """Where a request stands."""

    QUEUED = auto()
    PREPARE = auto()
    LANGUAGE = auto()
    ENCODE = auto()
    """The language half has answered; the embedding is still on its way."""
    DECODE = auto()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a request stands now."""

    stage: WorkStage
    position: int = 0
    """Queued: requests before it, as far as that is known."""
    expected_wait: float = 0.0
    """Queued: seconds."""
    wave: int = 0
    """Not queued: of ``waves``, from 0."""
    waves: int = 0


Tell = Callable[[Progress], None]
"""Hears where a request stands; returns at once."""


def unheard(_: Progress) -> None:
    """Nobody asked."""
