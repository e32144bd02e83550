"""Client of MediRound serving: multi-round medical segmentation. Research and education software.

    with Client("127.0.0.1:50051") as client, client.open("slice.png") as session:
        first = session.ask("Segment the left thalamus.")
        second = session.ask("Segment the same structure on the other side.", refer_to=first)
        second.mask  # bool (H, W)

``AsyncClient`` is the same, awaited. ``help(RoundResult)`` says what a result holds, ``mediround.errors`` what to
do about each error. ``mediround.testing`` has servers for your tests, ``mediround.evaluate`` measures masks. What
begins with an underscore may change at any time. More: clients/README.md in the repository.
"""

from mediround._description import Limits, ServerDescription
from mediround._parts import Box, CacheUse, Reference, Timings
from mediround._records import EngineRecord, Library, PixelRecord, RuntimeRecord
from mediround._rounds import Round
from mediround._tls import Tls
from mediround._version import __version__
from mediround.aio import AsyncClient
from mediround.aio_session import AsyncSession
from mediround.client import Client
from mediround.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    IdempotencyMismatch,
    InvalidArgument,
    MediRoundError,
    MovedOn,
    NeedsImage,
    NotFound,
    OtherModel,
    ProtocolMismatch,
    ResourceExhausted,
    ServerFault,
    SessionClosed,
    SessionExpired,
    StaleReference,
    Unavailable,
)
from mediround.history import PastRound, Progress, SessionSummary
from mediround.raw import StoredPixels
from mediround.results import RoundResult
from mediround.session import Session
from mediround.window import AppliedWindow, Window

__all__ = [
    "AccessDenied",
    "AppliedWindow",
    "AsyncClient",
    "AsyncSession",
    "Box",
    "CacheUse",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "EngineRecord",
    "FailedPrecondition",
    "FieldViolation",
    "IdempotencyMismatch",
    "InvalidArgument",
    "Library",
    "Limits",
    "MediRoundError",
    "MovedOn",
    "NeedsImage",
    "NotFound",
    "OtherModel",
    "PastRound",
    "PixelRecord",
    "Progress",
    "ProtocolMismatch",
    "Reference",
    "ResourceExhausted",
    "Round",
    "RoundResult",
    "RuntimeRecord",
    "ServerDescription",
    "ServerFault",
    "Session",
    "SessionClosed",
    "SessionExpired",
    "SessionSummary",
    "StaleReference",
    "StoredPixels",
    "Timings",
    "Tls",
    "Unavailable",
    "Window",
    "__version__",
]
