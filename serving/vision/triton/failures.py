"""Triton's failures: what each means here, and whether to try again.

Knows Triton's codes and messages (of 2.51; docs/triton.md). The messages stay inside: a model's may say anything.
"""

from __future__ import annotations

from enum import Enum

from serving.errors import DeadlineExceeded, EngineFault, Exhausted, ServingError, Unavailable
from serving.vision.triton.client import TritonFailure

RETRY_SECONDS = 1.0
BROKEN_SECONDS = 5.0
"""For how long a model whose process died is not asked: each request would wait a second to hear it again."""


class FailureKind(Enum):
    """What happened; the values are for logs."""

    QUEUE_FULL = "the model's queue is full"
    QUEUE_TIMEOUT = "the model did not begin in time"
    NO_REGION = "it does not map our memory: it was started anew"
    NO_MODEL = "a model is unknown, of another version, or not loaded"
    BROKEN = "a model's process has died"
    FORBIDDEN = "the admin key is missing or wrong"
    LATE = "no answer in the time that was allowed"
    LOST = "it cannot be reached"
    FAULT = "the request or the model is wrong"
    """Ours to mend."""


AGAIN = {FailureKind.LOST, FailureKind.NO_REGION}
"""A second try may succeed at once. Encoding and decoding may be repeated: they depend on nothing else."""
UNKNOWN_NOW = {FailureKind.LOST, FailureKind.NO_REGION, FailureKind.NO_MODEL, FailureKind.FORBIDDEN}
"""The server may be another one, or the same with another model."""
UNANSWERED = {FailureKind.LOST, FailureKind.LATE}
"""Triton may still be at it."""

_SAID: tuple[tuple[str, str, FailureKind], ...] = (
    ("UNAVAILABLE", "maximum queue size", FailureKind.QUEUE_FULL),
    ("UNAVAILABLE", "Request timeout expired", FailureKind.QUEUE_TIMEOUT),
    ("UNAVAILABLE", "protocol is restricted", FailureKind.FORBIDDEN),
    ("UNAVAILABLE", "ready", FailureKind.NO_MODEL),
    ("UNAVAILABLE", "", FailureKind.LOST),
    ("CANCELLED", "", FailureKind.LOST),
    ("NOT_FOUND", "shared memory region", FailureKind.NO_REGION),
    ("INVALID_ARGUMENT", "find shared memory region", FailureKind.NO_REGION),
    ("NOT_FOUND", "", FailureKind.NO_MODEL),
    ("INTERNAL", "is not healthy", FailureKind.BROKEN),
    ("DEADLINE_EXCEEDED", "", FailureKind.LATE),
)
"""A code, a part of its words, and what they mean; the first that fits."""


def kind_of(failure: TritonFailure) -> FailureKind:
    for code, words, kind in _SAID:
        if failure.code == code and words in failure.words:
            return kind
    return FailureKind.FAULT


def error_of(failure: TritonFailure) -> ServingError:
    """The error that the caller gets."""
    match kind_of(failure):
        case FailureKind.QUEUE_FULL:
            return Exhausted("the vision half's queue is full", RETRY_SECONDS)
        case FailureKind.QUEUE_TIMEOUT:
            return Unavailable("the vision half did not begin in time; sessions are unharmed", RETRY_SECONDS)
        case FailureKind.LATE:
            return DeadlineExceeded("the vision half was not done in time")
        case FailureKind.BROKEN:
            return Unavailable("a model of the vision half has died; sessions are unharmed", BROKEN_SECONDS)
        case FailureKind.LOST | FailureKind.NO_MODEL | FailureKind.NO_REGION | FailureKind.FORBIDDEN:
            return Unavailable("the vision half cannot be reached; sessions are unharmed", RETRY_SECONDS)
        case FailureKind.FAULT:
            return EngineFault(f"Triton answered {failure.code}")


def mapping_refusal(failure: TritonFailure) -> str:
    """For the operator of a server that maps no slab: the cause as far as it is known, and the remedy."""
    if kind_of(failure) is FailureKind.FORBIDDEN:
        return "Triton asks for its admin key before it maps memory: --triton.admin-key must be given"
    return (
        f"Triton cannot map our memory ({failure.code}): it must run on this host with the same /dev/shm and as a "
        "user that may read it; or say --triton.slab-bytes 0"
    )
