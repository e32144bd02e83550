"""Failed calls as errors, whatever a server or a proxy before it says."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from mediround import errors
from mediround.evaluate import RunError
from mediround.evaluate.data import PictureError
from mediround.failures import from_failure
from mediround.medseg import DataError
from mediround.rle import MalformedRle
from serving import errors as serving_errors

Code = grpc.StatusCode
DETAILS = "grpc-status-details-bin"


def failure(code: grpc.StatusCode, *metadata: tuple[str, str | bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), "words")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.INVALID_ARGUMENT, errors.InvalidArgument),
        (Code.OUT_OF_RANGE, errors.InvalidArgument),
        (Code.NOT_FOUND, errors.NotFound),
        (Code.FAILED_PRECONDITION, errors.FailedPrecondition),
        (Code.UNAUTHENTICATED, errors.AccessDenied),
        (Code.PERMISSION_DENIED, errors.AccessDenied),
        (Code.RESOURCE_EXHAUSTED, errors.ResourceExhausted),
        (Code.UNAVAILABLE, errors.Unavailable),
        (Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (Code.CANCELLED, errors.Cancelled),
        (Code.UNIMPLEMENTED, errors.ProtocolMismatch),
        (Code.INTERNAL, errors.ServerFault),
        (Code.UNKNOWN, errors.ServerFault),
        (Code.DATA_LOSS, errors.ServerFault),
        (Code.ABORTED, errors.ServerFault),
        (Code.ALREADY_EXISTS, errors.ServerFault),
    ],
)
@pytest.mark.parametrize(
    "metadata", [[], [(DETAILS, b"\xff\xff")], [(DETAILS, b"")], [("x-other-bin", b"\xff"), ("x-other", "y")]]
)
def test_every_code_with_whatever_details(
    code: grpc.StatusCode, kind: type[Exception], metadata: list[tuple[str, str | bytes]]
) -> None:
    error = from_failure(failure(code, *metadata))
    assert type(error) is kind
    assert "words" in str(error)


def detailed(code: grpc.StatusCode, *details: object) -> errors.MediRoundError:
    status = status_pb2.Status(code=code.value[0], message="words")
    for detail in details:
        status.details.add().Pack(detail)
    return from_failure(failure(code, (DETAILS, status.SerializeToString())))


def test_fields_that_must_change() -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="question.text", description="is empty")
    bad.field_violations.add(field="mask_encoding", description="is PNG")
    error = detailed(Code.INVALID_ARGUMENT, error_details_pb2.Help(), bad)
    assert error.violations == (
        errors.FieldViolation("question.text", "is empty"),
        errors.FieldViolation("mask_encoding", "is PNG"),
    )


@pytest.mark.parametrize("code", [Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE])
def test_when_to_come_again(code: grpc.StatusCode) -> None:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(1250)
    assert detailed(code, info).retry_after == 1.25
    assert from_failure(failure(code)).retry_after == 1.0


def test_what_to_report() -> None:
    error = detailed(Code.INTERNAL, error_details_pb2.RequestInfo(request_id="0123"))
    assert error.incident == "0123"
    assert from_failure(failure(Code.INTERNAL)).incident is None


@pytest.mark.parametrize(
    ("code", "transport", "kind", "words"),
    [
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", errors.DeadlineExceeded, "pass a larger timeout="),
        (
            Code.RESOURCE_EXHAUSTED,
            "SERVER: Received message larger than max (17000000 vs. 16842752)",
            errors.InvalidArgument,
            "it has 17000000 bytes, and must have at most 16842752",
        ),
        (
            Code.RESOURCE_EXHAUSTED,
            "CLIENT: Sent message larger than max",
            errors.InvalidArgument,
            "is larger than",
        ),
    ],
)
def test_the_transports_own_words_say_what_to_do(
    code: grpc.StatusCode, transport: str, kind: type[Exception], words: str
) -> None:
    error = from_failure(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), transport))
    assert type(error) is kind
    assert words in str(error)
    assert transport not in str(error)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {line.partition("── ")[2].split()[0] for line in errors.__doc__.splitlines() if "── " in line}
    real = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.MediRoundError) and kind is not errors.MediRoundError
    }
    assert drawn == real
    assert all(vars(errors)[name].__doc__ for name in real)


def public_errors() -> list[errors.MediRoundError]:
    """One of each public class, with all that it can carry."""
    violations = (errors.FieldViolation("image", "is empty"),)
    given = {
        errors.InvalidArgument: ("words", violations),
        errors.ResourceExhausted: ("words", 1.5),
        errors.Unavailable: ("words", 1.5),
        errors.ServerFault: ("words", "0123"),
        errors.ProtocolMismatch: ("words", "0123"),
    }
    kinds = [errors.MediRoundError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    return [kind(*given.get(kind, ("words",))) for kind in kinds if kind.__module__ == errors.__name__]


class Own(errors.Unavailable):
    """An integrator's."""

    def __init__(self, host: str, *, attempts: int) -> None:
        super().__init__(f"{host} is away", 2.5)
        self.attempts = attempts


class OwnServing(serving_errors.Exhausted):
    """Another number of arguments than its base."""

    def __init__(self) -> None:
        super().__init__("full", 2.5, serving_errors.Shed.QUEUE)


@pytest.mark.parametrize(
    "error",
    [
        *public_errors(),
        Own("a", attempts=3),
        PictureError("a.png", "is malformed"),
        DataError("words"),
        RunError("words"),
        MalformedRle("words"),
        serving_errors.InvalidInput("image", "is empty"),
        serving_errors.NotFound("words"),
        serving_errors.Exhausted("full", 2.5, serving_errors.Shed.QUEUE),
        serving_errors.StillWriting("away", 2.5),
        OwnServing(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])  # noqa: S301
def test_an_error_crosses_processes_whole(error: Exception, way: Callable[[Exception], Exception]) -> None:
    error.add_note("of slice 7")
    again = way(error)
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
    assert again.__notes__[-1] == "of slice 7"
