"""Memory of the running server at the corners of its limits: every request stays within a few pictures' size.

Peaks are the process's own (VmHWM, set back before each request), so a copy that lives for a moment counts.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from loadtest.server_process import Launched, launched
from mediround import Client
from mediround.image import upload
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.bundle import Bundle

CORNERS = [(915, 18300), (18300, 915), (4096, 4096)]
"""Height and width: the widest, the tallest and the largest image that the default limits allow."""
MIB = 1 << 20
PICTURE = 4096 * 4096 * 3
"""Bytes of such an image, as RGB."""


@pytest.fixture(scope="module")
def running(random_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    with launched(random_bundle.directory, tmp_path_factory.mktemp("memory") / "server.log") as server:
        with Client(server.address) as client, client.open(np.ones((64, 64), np.uint8)) as session:
            session.ask("Segment the liver.")  # what a first request brings into memory for good
        yield server


@pytest.fixture
def growth(running: Launched) -> Callable[[], int]:
    """Bytes by which the peak has grown since the last call."""
    reset, status = Path(f"/proc/{running.pid}/clear_refs"), Path(f"/proc/{running.pid}/status")
    held = 0

    def grown() -> int:
        nonlocal held
        before, peak = held, running.peak_memory()
        reset.write_text("5")  # the peak becomes what is resident now
        held = int(status.read_text().split("VmRSS:")[1].split()[0]) * 1024
        return peak - before

    grown()
    return grown


def pixels(size: tuple[int, int], channels: int) -> np.ndarray:
    """Nowhere black, and of little detail, so that a file of it is small."""
    coarse = np.random.default_rng(0).integers(1, 256, (size[0] // 61 + 1, size[1] // 61 + 1, channels), np.uint8)
    return np.ascontiguousarray(coarse.repeat(61, 0).repeat(61, 1)[: size[0], : size[1]])


def saved(image: np.ndarray, form: str, **how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, form, **how)
    return file.getvalue()


def opened(stub: SegmentationServiceStub, image: object) -> pb.OpenSessionResponse:
    sent = upload(image)  # type: ignore[arg-type]  # an array or a file's bytes
    chunks = [sent.payload[start : start + MIB] for start in range(0, len(sent.payload), MIB)]
    messages = [pb.OpenSessionRequest(header=sent.header), *(pb.OpenSessionRequest(chunk=c) for c in chunks)]
    return stub.OpenSession(iter(messages), timeout=120)


@pytest.mark.parametrize("size", CORNERS)
def test_opening(running: Launched, growth: Callable[[], int], size: tuple[int, int]) -> None:
    rgb, alpha = pixels(size, 3), np.full((*size, 1), 255, np.uint8)
    kinds = {
        "raw RGB": rgb,
        "raw grey": pixels(size, 1)[..., 0],
        "RGBA PNG": saved(np.concatenate([rgb, alpha], 2), "PNG", compress_level=1),
        "progressive JPEG": saved(rgb, "JPEG", progressive=True),
        "TIFF": saved(rgb, "TIFF", compression="tiff_lzw"),
    }
    with grpc.insecure_channel(running.address) as channel:
        stub = SegmentationServiceStub(channel)
        for kind, image in kinds.items():
            session = opened(stub, image)
            stub.CloseSession(pb.CloseSessionRequest(session_id=session.session_id))
            assert growth() < 8 * PICTURE, kind


@pytest.mark.parametrize("size", CORNERS)
def test_rounds(running: Launched, growth: Callable[[], int], size: tuple[int, int]) -> None:
    with grpc.insecure_channel(running.address, [("grpc.max_receive_message_length", -1)]) as channel:
        stub = SegmentationServiceStub(channel)
        session = opened(stub, pixels(size, 1)[..., 0]).session_id
        growth()
        question = pb.Question(text="Segment the liver.", answer_mode=pb.ANSWER_MODE_FORCED)
        again = pb.Question(text="Again.", answer_mode=pb.ANSWER_MODE_FORCED, refer_to=pb.RoundReference(round=0))
        for encoding in (pb.MASK_ENCODING_COCO_RLE, pb.MASK_ENCODING_PACKED_BITS, pb.MASK_ENCODING_PNG):
            for asked in (question, again):
                stub.AskRound(pb.AskRoundRequest(session_id=session, question=asked, mask_encoding=encoding))
                assert growth() < 4 * PICTURE, (pb.MaskEncoding.Name(encoding), asked.text)
        request = pb.SegmentDialogueRequest(session_id=session, questions=[question, *[again] * 7])
        assert len(list(stub.SegmentDialogue(request))) == 8
        assert growth() < 10 * PICTURE
        stub.CloseSession(pb.CloseSessionRequest(session_id=session))
