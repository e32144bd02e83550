"""Triton's words, as they were seen of 2.51, and what the caller is told."""

from __future__ import annotations

import pytest

from serving.errors import DeadlineExceeded, EngineFault, Exhausted, ServingError, Unavailable
from serving.vision.triton.client import TritonFailure
from serving.vision.triton.failures import FailureKind, error_of, kind_of


@pytest.mark.parametrize(
    ("code", "words", "kind", "error"),
    [
        (
            "UNAVAILABLE",
            "[request id: <id_unknown>] Exceeds maximum queue size",
            FailureKind.QUEUE_FULL,
            Exhausted,
        ),
        ("UNAVAILABLE", "Request timeout expired", FailureKind.QUEUE_TIMEOUT, Unavailable),
        (
            "UNAVAILABLE",
            "This protocol is restricted, expecting header 'triton-grpc-protocol-admin-key'",
            FailureKind.FORBIDDEN,
            Unavailable,
        ),
        ("UNAVAILABLE", "Request for unknown model: 'x' is not at ready state", FailureKind.NO_MODEL, Unavailable),
        ("UNAVAILABLE", "failed to connect to all addresses; last error: ...", FailureKind.LOST, Unavailable),
        ("CANCELLED", "", FailureKind.LOST, Unavailable),
        ("NOT_FOUND", "Unable to find shared memory region: 'x'", FailureKind.NO_REGION, Unavailable),
        ("NOT_FOUND", "Request for unknown model: 'x' version 9 is not found", FailureKind.NO_MODEL, Unavailable),
        ("INTERNAL", "Stub process 'mask_decoder_0_0' is not healthy.", FailureKind.BROKEN, Unavailable),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", FailureKind.LATE, DeadlineExceeded),
        ("INVALID_ARGUMENT", "unexpected shape for input 'seg_features'", FailureKind.FAULT, EngineFault),
        ("INTERNAL", "Failed to process the request(s): a patient's name", FailureKind.FAULT, EngineFault),
    ],
)
def test_what_it_means(code: str, words: str, kind: FailureKind, error: type[ServingError]) -> None:
    failure = TritonFailure(code, words)
    assert kind_of(failure) is kind
    told = error_of(failure)
    assert type(told) is error
    assert words == "" or words not in str(told)
