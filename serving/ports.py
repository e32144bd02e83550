"""Ports: what the orchestrator needs of engines, stores and the gate.

Every Protocol here has at least two implementations and one contract suite (``tests/contract``).
Engines raise only ``serving.errors``; cancellation of an awaiting task must stop the work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from serving.domain import (
    F32,
    Bits,
    EncoderImage,
    Priority,
    Reference,
    SegFeature,
    SourceImage,
    Tell,
    TowerImage,
    unheard,
)
from serving.history.record import Session, SessionRecord, SessionSummary, Snapshot
from serving.runtime.record import RuntimeRecord
from serving.runtime.slab import Slot


@dataclass(frozen=True, slots=True)
class Prompt:
    """A dialogue up to where the language half must read or answer."""

    dialogue: str
    """Groups prompts that extend one another (a session and its branches): a hint for prefix caches, never a key.
    """
    tenant: str
    """Whose dialogue it is (the caller): what an engine keeps of one tenant's prompts never serves another's."""
    token_ids: tuple[int, ...]
    """The image placeholder once, not expanded; a crop and a box placeholder for each reference, in order."""
    image: TowerImage
    references: tuple[Reference, ...]
    feature_positions: tuple[int, ...]
    """Indices into ``token_ids``, ascending: the tokens just before each forced ``[SEG]`` that is wanted."""
    max_new_tokens: int
    """0 reads only. Otherwise the answer is generated, greedily, up to ``[SEG]``, the end, or this many."""
    ensure_seg: bool
    """A generated answer has its ``[SEG]``: it takes the place of the end, or of the last of the new tokens."""


@dataclass(frozen=True, slots=True)
class Completion:
    features: tuple[SegFeature, ...]
    """One for each of the prompt's ``feature_positions``."""
    token_ids: tuple[int, ...]
    """Generated tokens, without the ``[SEG]`` or end that stopped them."""
    generated: SegFeature | None
    """At the generated ``[SEG]``, if there is one."""
    prompt_tokens: int
    """Image tokens included."""
    cached_tokens: int
    """Of the prompt tokens, those that were not computed again."""
    runtime: RuntimeRecord
    """What computed it."""


class LanguageEngine(Protocol):
    """Reads image, dialogue and references; yields words and ``[SEG]`` features."""

    @property
    def description(self) -> str:
        """For people, for example ``onnxruntime/CPUExecutionProvider``."""

    @property
    def runtimes(self) -> tuple[RuntimeRecord, ...]:
        """What may answer the next prompt: several only where servers differ, none while none serves."""

    async def complete(self, prompt: Prompt) -> Completion:
        """One language pass, then generation if the prompt asks for it.

        Raises:
            InvalidInput: the prompt is longer than the model allows; paths are within it (``prompt.token_ids``).
            Exhausted, Unavailable: try again later.
        """

    async def close(self) -> None: ...


class EmbeddingLease(Protocol):
    """The right to one image's embedding until the lease is released."""

    @property
    def key(self) -> str: ...

    @property
    def hit(self) -> bool:
        """Whether the embedding was there (or on its way) when the lease was asked for."""

    @property
    def values(self) -> F32:
        """(256, 64, 64), float32 or float16 as the manifest says; written by ``VisionEngine.encode`` alone."""

    @property
    def slot(self) -> Slot | None:
        """Where ``values`` lie in memory that a server on this host may map; None in this process's own."""

    @property
    def encoder(self) -> RuntimeRecord | None:
        """What computed ``values``; None until they are."""


Fill = Callable[[EmbeddingLease], Awaitable[RuntimeRecord]]
"""Fills a lease and returns what computed it."""


class EmbeddingStore(Protocol):
    """Content-addressed embeddings within a byte budget. A leased embedding is never evicted or overwritten."""

    async def acquire(self, key: str, fill: Fill) -> EmbeddingLease:
        """Lease the embedding; on a miss ``fill`` is awaited once, for however many callers at the same time.

        A fill that fails is forgotten and its error reaches every waiter. It is cancelled only when no waiter is
        left. The buffer of one that ended with ``StillWriting`` is not reused.

        Raises:
            Exhausted: every byte of the budget is leased.
        """

    def release(self, lease: EmbeddingLease) -> None:
        """Give the lease back, once."""

    def holds(self, key: str) -> bool:
        """Whether the embedding is there, or on its way, now: a hint of what a request will cost."""

    def demote(self, key: str) -> None:
        """Nobody has asked for it: until it is acquired again it goes before all others. Nothing where it is not
        there.
        """

    async def settled(self, key: str) -> bool:
        """Return when the embedding is not on its way, or not any more: it is there, or was not brought. Whether
        there was something to wait for. Whoever waits so keeps no fill going that all others have left.
        """


@dataclass(frozen=True, slots=True)
class DecodedMasks:
    logits: F32
    """(K, L, L): mask logits over the padded square."""
    scores: F32
    """(K,): the judge's, of the raw features; NaN for a model without a judge."""
    corrected: Bits
    """(K,): where score <= threshold, and the feature was replaced."""
    features: F32
    """(K, 256): as decoded."""


class VisionEngine(Protocol):
    """Encodes images into embeddings and decodes features against them."""

    @property
    def description(self) -> str: ...

    @property
    def encoder(self) -> RuntimeRecord:
        """What encodes now."""

    @property
    def decoder(self) -> RuntimeRecord:
        """What decodes now."""

    async def encode(self, image: EncoderImage, lease: EmbeddingLease) -> RuntimeRecord:
        """Put the image's embedding where the lease points; returns what computed it.

        Nothing writes there after it returned or raised.

        Raises:
            StillWriting: something may, for all that is known.
        """

    async def decode(self, lease: EmbeddingLease, features: F32, thresholds: F32) -> DecodedMasks:
        """Judge, correct and decode K features (K, 256) as one batch on one embedding; thresholds (K,)."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ExpectedWork:
    """What a request is expected to ask of the engines."""

    encodes: int
    passes: int
    masks: int
    ahead: bool = False
    """Nobody waits for it yet: it delays no request, and is never refused for what waits."""


class Place(Protocol):
    """An admitted request's, until its block ends."""

    def encoded(self, *, hit: bool) -> None:
        """Its image's embedding is there: it counts no longer among the requests that encode. ``hit``: others
        brought the embedding, so that the encode expected of this request was not its work.
        """


class Gate(Protocol):
    """Admission: which requests run now, and which wait. A request passes it once, before its engines."""

    def admitted(
        self, work: ExpectedWork, caller: str, priority: Priority, tell: Tell = unheard
    ) -> AbstractAsyncContextManager[Place]:
        """Run the block once admitted; waits until then. Cancelling the task leaves the queue.

        ``tell`` hears of its place, when it must wait and when that changes.

        Raises:
            Exhausted: too much waits, or more than the request's deadline allows for.
        """


class SessionStore(Protocol):
    """Sessions, by caller and id: what one caller has is not there for another, whose ids may be the same.

    One request at a time holds a session; others wait in the order of their arrival. Records are pure values. A
    store that keeps them elsewhere need not keep what is derived (the tower's pixels, ``Round.reference``), and
    has it there again before a session is held.

    Every method but ``page`` raises, for a session that cannot be had:
        NotFound: unknown, or another caller's (no reason); its end was reached (SESSION_EXPIRED).
        PreconditionFailed: closed, also while waiting (SESSION_CLOSED).

    One that keeps them elsewhere raises Unavailable, too, from every coroutine: it cannot be reached, or cannot be
    read or written there.
    """

    async def create(self, session: Session) -> None:
        """Raises Exhausted when the store's limit of sessions or bytes is reached, PreconditionFailed
        (SESSION_ID_USED) where the caller had a session of this id.
        """

    def exclusive(self, session_id: str, caller: str) -> AbstractAsyncContextManager[Session]:
        """Hold the session as it is when its turn comes. Raises PreconditionFailed (NEEDS_IMAGE) where it is
        parked without its image.
        """

    async def commit(self, record: SessionRecord) -> None:
        """Take the next record (``version`` one above) of the session that is held: wholly, or not at all. What
        was not changed is the same object as before.

        Raises:
            Exhausted: the store is full.
        """

    async def read(self, session_id: str, caller: str) -> Snapshot:
        """The session as the last commit left it, without waiting for a turn. Counts as use."""

    async def resume(self, session_id: str, caller: str, image: SourceImage) -> None:
        """Give a parked session its image again; nothing where it has one."""

    async def page(self, caller: str, after: tuple[float, str] | None, count: int) -> list[SessionSummary]:
        """At most ``count`` of the caller's sessions, the latest opened first, behind the one that ``after`` names
        by ``opened_at`` and id; None: from the first.
        """

    def seconds_left(self, session_id: str, caller: str) -> float:
        """Until the session ends if nothing is asked of it from now on; 0 where it is gone. Raises nothing."""

    async def close(self, session_id: str, caller: str) -> None:
        """Close it for good and free its memory. Idempotent."""

    def on_gone(self, listener: Callable[[str, str], None]) -> None:
        """``listener`` hears of every session, by its id and caller, that leaves this process's memory: it was
        closed, has expired or given way, or is parked. It returns at once, and never raises.
        """
