"""The servers that implement the public contract: the real service, and the one of ``mediround.testing``.

The first runs on scripted engines (``tests.service.harness``); the second has the same limits and the same model's
manners. And messages for both that no client would send.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from mediround import Limits
from mediround.testing import DESCRIPTION, Answer, AskedQuestion, Reply, Script, serve
from mediround.v1 import segmentation_pb2 as pb
from serving.api.server import serving
from tests.service.harness import LIMITS, MODEL_DIGEST, picture
from tests.service.harness import stage as build_stage

DIGEST = hashlib.sha256(b"abc").digest()
ENCODED = pb.ImageHeader(encoded=pb.EncodedImage())


@dataclass(frozen=True, slots=True)
class Implementation:
    """A server of the contract that runs."""

    address: str
    take: Callable[[float], None]
    """Sets the seconds that each round takes from now on."""


@asynccontextmanager
async def real(*, template_trained: bool = True) -> AsyncIterator[Implementation]:
    """The service and the orchestrator, on scripted engines."""
    with ThreadPoolExecutor(2) as executor:
        stage = build_stage(executor, template_trained=template_trained)
        async with serving(stage.service, observer=stage.observer) as server:

            def take(seconds: float) -> None:
                stage.language.script.delay_s = seconds

            yield Implementation(server.address, take)


@asynccontextmanager
async def scripted(*, template_trained: bool = True) -> AsyncIterator[Implementation]:
    """What integrators test with, under the same limits and with the same model's manners."""
    same = {name: LIMITS[name] for name in Limits.__slots__ if name in LIMITS}
    limits = Limits(max_tokens=400, max_given_mask_bytes=2 << 20, **same)
    described = replace(
        DESCRIPTION,
        limits=limits,
        model_digest=MODEL_DIGEST,
        engine_records=(replace(DESCRIPTION.engine_records[0], model_digest=MODEL_DIGEST),),
        default_answer_mode="forced" if template_trained else "free",
        answer_template_trained=template_trained,
        threshold=0.6,
    )
    delays = [0.0]

    def answer(question: AskedQuestion) -> Reply:
        if "hear me" in question.text:
            return Answer(None, "Yes.", delay=delays[-1])
        return Answer(words="Here [SEG].", score=0.5, delay=delays[-1])

    async with serve(Script(answer, description=described)) as server:
        yield Implementation(server.address, delays.append)


Start = Callable[..., AbstractAsyncContextManager[Implementation]]
IMPLEMENTATIONS: dict[str, Start] = {"real": real, "scripted": scripted}


def question(**changes: object) -> pb.Question:
    return pb.Question(**({"text": "Segment the liver."} | changes))


def ask(session_id: str = "s", **changes: object) -> pb.AskRoundRequest:
    return pb.AskRoundRequest(**({"session_id": session_id, "question": question()} | changes))


def header(message: pb.ImageHeader = ENCODED) -> pb.OpenSessionRequest:
    return pb.OpenSessionRequest(header=message)


def chunk(data: bytes = b"abc") -> pb.OpenSessionRequest:
    return pb.OpenSessionRequest(chunk=data)


def raw(
    height: int = 2, width: int = 2, channels: int = 1, kind: int = pb.PIXEL_TYPE_UINT8, **meaning: Any
) -> pb.OpenSessionRequest:
    shape = pb.RawPixels(height=height, width=width, channels=channels, pixel_type=kind, **meaning)
    return header(pb.ImageHeader(raw=shape))


def encoded(kind: str, height: int = 48, width: int = 64, **options: object) -> bytes:
    """A file."""
    stream = io.BytesIO()
    Image.fromarray(picture(height, width)).save(stream, kind, **options)
    return stream.getvalue()
