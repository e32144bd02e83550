"""Rounds as values: what is remembered of a finished one, and what its caller is told.

Knows which mask a round has and which it used. Does not know sessions, pixels of crops (but to hold them) or
tokens' text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from serving.domain import CacheUse, Mask, Rectangle, Reference, Segmentation, Timings


class MaskSource(Enum):
    ROUND = auto()
    """An earlier round's: the model's own, or a seed's."""
    GIVEN = auto()
    """Sent with the question."""
    AMENDED = auto()
    """An earlier round's, as a person has edited it."""


@dataclass(frozen=True, slots=True)
class ReferredMask:
    """The mask that a question is about, as it was when it was asked."""

    mask: Mask
    source: MaskSource
    round: int
    """0 where it was given."""
    round_id: str
    """Empty where it was given."""
    origin: str
    """Of a mask that was given, amended or a seed's, in the caller's words. Never logged."""


@dataclass(frozen=True, slots=True)
class UsedReference:
    """What the model was shown of it."""

    referred: ReferredMask
    crop: Rectangle
    box: Rectangle
    whole_image: bool

    @classmethod
    def of(cls, referred: ReferredMask, shown: Reference) -> UsedReference:
        """``shown`` was cut out of ``referred``."""
        return cls(referred, shown.crop_rectangle, shown.box_rectangle, shown.whole_image)


@dataclass(frozen=True, slots=True)
class Amendment:
    """A person's mask in place of the round's."""

    mask: Mask
    origin: str


@dataclass(frozen=True, slots=True)
class Round:
    """A finished round, as the session remembers it."""

    round_id: str
    question: str
    answer: str
    token_ids: tuple[int, ...]
    """All tokens that the round adds to the dialogue; reference placeholders included."""
    used: UsedReference | None
    reference: Reference | None
    """Derived: cut out of the image by the mask used. There whenever ``used`` is, in a session that is held."""
    segmentation: Segmentation | None
    """The model's, or the seed's. None: the model answered without a mask."""
    seeded: bool = False
    """Given as a whole."""
    origin: str = ""
    """Of the seed's mask, in the caller's words. Never logged."""
    engine_digest: str = ""
    """Names the record of what computed it, whatever computes rounds since; empty where nothing did."""
    amendment: Amendment | None = None

    @property
    def mask(self) -> Mask | None:
        """As it is now: what a later question refers to."""
        if self.amendment is not None:
            return self.amendment.mask
        return None if self.segmentation is None else self.segmentation.mask

    @property
    def masks(self) -> tuple[Mask, ...]:
        """All that it holds: as it is, as the model made it, and the one that it used."""
        own = () if self.segmentation is None else (self.segmentation.mask,)
        amended = () if self.amendment is None else (self.amendment.mask,)
        used = () if self.used is None else (self.used.referred.mask,)
        return own + amended + used


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A finished round, as its caller is told."""

    index: int
    round: Round
    timings: Timings
    cache: CacheUse
    near_zero: Mask | None = None
    """Pixels whose logits lie as near to 0 as the request said; None: it did not ask, or there are no logits."""

    @property
    def masks(self) -> tuple[Mask, ...]:
        """The round's, and what is told beside them."""
        return self.round.masks if self.near_zero is None else (*self.round.masks, self.near_zero)

    @property
    def answer(self) -> str:
        return self.round.answer

    @property
    def segmentation(self) -> Segmentation | None:
        return self.round.segmentation

    @property
    def reference(self) -> Reference | None:
        return self.round.reference
