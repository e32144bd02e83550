"""An image as it is sent: a header and bytes, whatever form the caller has it in.

Knows paths, encoded bytes, arrays and PIL images (by their methods: Pillow is never imported), and how bytes
are hashed and cut. Does not know calls, sessions or limits: those are the server's.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from mediround import pictures
from mediround.errors import FieldViolation, InvalidArgument
from mediround.v1 import segmentation_pb2 as pb

CHUNK_BYTES = 1 << 20
"""The contract's largest chunk."""

_WINDOWING = "map it to 8 bits with a window first (DICOM VOI LUT): a fixed scale would lose contrast"


class PilImage(Protocol):
    """What is needed of a ``PIL.Image.Image``."""

    @property
    def mode(self) -> str: ...
    @property
    def size(self) -> tuple[int, int]: ...
    def tobytes(self) -> bytes: ...


ImageSource: TypeAlias = str | PathLike[str] | bytes | bytearray | npt.NDArray[np.uint8] | PilImage
"""A path or the bytes of a PNG, JPEG or TIFF file; uint8 (H, W) or (H, W, 3) RGB; a PIL image, which must be
what a file must be (``mediround.pictures``)."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One image, ready to be sent. ``header`` holds the SHA-256 of ``payload``."""

    header: pb.ImageHeader
    payload: bytes

    @property
    def key(self) -> bytes:
        """Equal for images that the server would find equal, whoever opens them and however urgent they are."""
        return self.prioritised(pb.PRIORITY_UNSPECIFIED).named("").header.SerializeToString(deterministic=True)

    @property
    def awaits_verdict(self) -> bool:
        """Whether the server is let judge the header before the rest is sent: worth a round trip for large
        images.
        """
        return len(self.payload) > CHUNK_BYTES

    def prioritised(self, priority: pb.Priority.ValueType) -> Upload:
        """The same image, whose opening queues so on a busy server."""
        header = pb.ImageHeader()
        header.CopyFrom(self.header)
        header.priority = priority
        return Upload(header, self.payload)

    def named(self, session_id: str, *, keep: bool = False, resume: bool = False) -> Upload:
        """The same image, for a session of this id."""
        header = pb.ImageHeader()
        header.CopyFrom(self.header)
        header.session_id, header.keep, header.resume = session_id, keep, resume
        return Upload(header, self.payload)

    def inquiry(self) -> Iterator[pb.OpenSessionRequest]:
        """The messages of a call that sends no pixels: the server may hold them."""
        yield pb.OpenSessionRequest(header=self.header)

    def messages(self) -> Iterator[pb.OpenSessionRequest]:
        """The messages of a call that sends all."""
        yield pb.OpenSessionRequest(header=self.header)
        for start in range(0, len(self.payload), CHUNK_BYTES):
            yield pb.OpenSessionRequest(chunk=self.payload[start : start + CHUNK_BYTES])


def upload(image: ImageSource) -> Upload:
    """Prepare an image.

    Raises:
        InvalidArgument: an array or PIL image of another shape, type or mode than ``ImageSource`` says.
        OSError: the path cannot be read.
    """
    match image:
        case str() | PathLike():
            return _encoded(_file(image))
        case bytes() | bytearray():
            return _encoded(memoryview(image).tobytes())
        case np.ndarray():
            return _array(image)
        case _ if _is_pil(image):
            return _pil(image)
        case _:
            raise _refused(f"must be a path, bytes, an array or a PIL image, not a {type(image).__name__}")


def _file(path: str | PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except (TypeError, ValueError):
        raise _refused("a path that no file can have: it holds U+0000, or is no text") from None


def _encoded(payload: bytes) -> Upload:
    if not payload:
        raise _refused("the file must not be empty")
    digest = hashlib.sha256(payload).digest()
    header = pb.ImageHeader(encoded=pb.EncodedImage(), content_sha256=digest, content_bytes=len(payload))
    return Upload(header, payload)


def _array(image: npt.NDArray[Any]) -> Upload:
    if isinstance(image, np.ma.MaskedArray):
        raise _refused(
            "must not be a masked array: hidden pixels have no value; fill them, for example image.filled(0)"
        )
    pixels = np.asarray(image)  # numpy's own: a subclass's methods may give other bytes than it holds
    if pixels.dtype != np.uint8:
        raise _refused(f"must be an array of uint8, not of {pixels.dtype}; {_WINDOWING}")
    match pixels.shape:
        case (height, width) if height and width:
            return _raw(height, width, 1, pixels.tobytes())
        case (height, width, 3) if height and width:
            return _raw(height, width, 3, pixels.tobytes())
        case shape:
            raise _refused(f"must be an array of shape (H, W), or (H, W, 3) with RGB last, not {shape}")


def _is_pil(image: object) -> TypeGuard[PilImage]:
    """Whether it is Pillow's own, which is then imported already: others' classes may have the same names."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _pil(image: Any) -> Upload:
    """As the same picture would be sent as a file: ``mediround.pictures`` is the rule of both entrances."""
    width, height = image.size
    if not width or not height:
        raise _refused("must have pixels")
    try:
        if refusal := pictures.refusal(image):
            raise _refused(refusal)
        rgb = pictures.opaque(image)
    except InvalidArgument:
        raise
    except pictures.MALFORMED as error:
        raise _refused(f"is closed, truncated or malformed ({type(error).__name__})") from None
    if rgb is None:
        raise _refused(pictures.TRANSPARENT)
    grey = image.mode == "L"
    payload = rgb.getchannel(0).tobytes() if grey else rgb.tobytes()
    return _raw(height, width, 1 if grey else 3, payload)


def _raw(height: int, width: int, channels: int, payload: bytes) -> Upload:
    form = pb.RawPixels(height=height, width=width, channels=channels, pixel_type=pb.PIXEL_TYPE_UINT8)
    digest = hashlib.sha256(payload).digest()
    return Upload(pb.ImageHeader(raw=form, content_sha256=digest, content_bytes=len(payload)), payload)


def _refused(description: str) -> InvalidArgument:
    return InvalidArgument(f"image: {description}", (FieldViolation("image", description),))
