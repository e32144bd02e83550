"""An image as it is sent: a header and bytes, whatever form the caller has it in.

Knows paths, encoded bytes, arrays and PIL images (by their methods: Pillow is never imported), and how bytes
are hashed and cut. Does not know DICOM (``mediround._dicom_entry``), calls, sessions or limits: those are the
server's.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from mediround import pictures
from mediround._dicom_entry import is_dicom, prepared_frame
from mediround._files import BadFile, content
from mediround._records import PixelRecord
from mediround.errors import FieldViolation, InvalidArgument
from mediround.raw import StoredPixels
from mediround.v1 import segmentation_pb2 as pb
from mediround.window import Window, WindowChoice

CHUNK_BYTES = 1 << 20
"""The contract's largest chunk."""
MAX_FILE_BYTES = 1 << 30
"""Of a file that is read to be sent; what a server takes is less (``describe().limits.max_image_bytes``)."""

_WINDOWING = "16 bits need a window (DICOM VOI LUT): client.open(int16_or_uint16, window=Window(40, 400))"


class PilImage(Protocol):
    """What is needed of a ``PIL.Image.Image``."""

    @property
    def mode(self) -> str: ...
    @property
    def size(self) -> tuple[int, int]: ...
    def tobytes(self) -> bytes: ...


class DicomDataset(Protocol):
    """What a ``pydicom.Dataset`` is known by here."""

    def group_dataset(self, group: int, /) -> Any: ...


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class PreparedImage:
    """An image that was made ready elsewhere, and how: frames of ``mediround.dicom`` are such.

    Attributes:
        image: uint8 (H, W) or (H, W, 3) RGB.
        record: what made it.
    """

    image: npt.NDArray[np.uint8] = field(repr=False)
    record: PixelRecord


Array: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.int16]
PlainSource: TypeAlias = (
    str | PathLike[str] | bytes | bytearray | Array | PilImage | StoredPixels | PreparedImage | DicomDataset
)
"""A path or the bytes of a PNG, JPEG, TIFF or DICOM file; uint8 (H, W) or (H, W, 3) RGB; a PIL image, which must
be what a file must be (``mediround.pictures``); 16-bit pixels with their window; a frame of ``mediround.dicom``; a
pydicom data set."""


@dataclass(frozen=True, slots=True)
class ChosenFrame:
    """An image of which a frame was chosen, or a window.

    Attributes:
        image: as the caller has it.
        frame: of a DICOM object, from 1; None: its only one.
        window: see ``mediround.dicom.WindowChoice``; of a 16-bit array, a ``Window``.
    """

    image: PlainSource
    frame: int | None = None
    window: WindowChoice = None


ImageSource: TypeAlias = PlainSource | ChosenFrame


@dataclass(frozen=True, slots=True)
class Upload:
    """One image, ready to be sent. ``header`` holds the SHA-256 of ``payload``."""

    header: pb.ImageHeader
    payload: bytes
    record: PixelRecord | None = None
    """What made the pixels, or makes 8 bits of them; None: they are sent as the caller had them."""

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
        return replace(self, header=header)

    def named(self, session_id: str, *, keep: bool = False, resume: bool = False) -> Upload:
        """The same image, for a session of this id."""
        header = pb.ImageHeader()
        header.CopyFrom(self.header)
        header.session_id, header.keep, header.resume = session_id, keep, resume
        return replace(self, header=header)

    def inquiry(self) -> Iterator[pb.OpenSessionRequest]:
        """The messages of a call that sends no pixels: the server may hold them."""
        yield pb.OpenSessionRequest(header=self.header)

    def messages(self) -> Iterator[pb.OpenSessionRequest]:
        """The messages of a call that sends all."""
        yield pb.OpenSessionRequest(header=self.header)
        for start in range(0, len(self.payload), CHUNK_BYTES):
            yield pb.OpenSessionRequest(chunk=self.payload[start : start + CHUNK_BYTES])


def chosen(image: ImageSource, frame: int | None, window: WindowChoice) -> ImageSource:
    """The image, of which a frame or a window may have been chosen."""
    if frame is None and window is None:
        return image
    if isinstance(image, ChosenFrame):
        raise _refused("must be the image itself where a frame or a window is chosen")
    return ChosenFrame(image, frame, window)


def upload(image: ImageSource) -> Upload:
    """Prepare an image.

    Raises:
        InvalidArgument: an array or PIL image of another shape, type or mode than ``ImageSource`` says; a file of
            more than ``MAX_FILE_BYTES``, or a device; a frame or a window that cannot be.
        FailedPrecondition: it is a DICOM object, and the extra ``dicom`` is not installed.
        MediRoundError: ``mediround.dicom`` cannot read it.
        OSError: the path cannot be read.
    """
    choice = image if isinstance(image, ChosenFrame) else ChosenFrame(image)
    if is_dicom(choice.image):
        return _array(*prepared_frame(choice.image, choice.frame, choice.window))
    if isinstance(choice.image, np.ndarray) and choice.image.dtype.str[1:] in {"i2", "u2"}:
        return _stored(_with_window(choice))
    for name in ("frame", "window"):
        if getattr(choice, name) is not None:
            words = "must be left out: it is for DICOM objects" + (
                ", and 16-bit arrays" if name == "window" else ""
            )
            raise InvalidArgument(f"{name}: {words}", (FieldViolation(name, words),))
    return _plain(choice.image)


def _plain(image: PlainSource) -> Upload:
    match image:
        case str() | PathLike():
            return _encoded(_file(image))
        case bytes() | bytearray():
            return _encoded(memoryview(image).tobytes())
        case np.ndarray():
            return _array(image)
        case StoredPixels():
            return _stored(image)
        case PreparedImage():
            return _array(image.image, image.record)
        case _ if _is_pil(image):
            return _pil(image)
        case _:
            raise _refused(f"must be a path, bytes, an array or a PIL image, not a {type(image).__name__}")


def _with_window(choice: ChosenFrame) -> StoredPixels:
    if choice.frame is not None:
        raise InvalidArgument("frame: must be left out", (FieldViolation("frame", "must be left out"),))
    window = Window(*choice.window) if isinstance(choice.window, tuple) else choice.window
    if not isinstance(window, Window):
        words = "must be given with 16-bit pixels: a mediround.Window, or (center, width)"
        raise InvalidArgument(f"window: {words}", (FieldViolation("window", words),))
    return StoredPixels(choice.image, window)  # type: ignore[arg-type]  # whose type was looked at


def _stored(image: StoredPixels) -> Upload:
    form, payload = image.form, image.payload()
    height, width = image.values.shape
    record = PixelRecord((), str(form.applied))
    header = pb.ImageHeader(
        raw=form.message(height, width),
        content_sha256=hashlib.sha256(payload).digest(),
        content_bytes=len(payload),
    )
    return Upload(header, payload, record)


def _file(path: str | PathLike[str]) -> bytes:
    try:
        return content(Path(path), MAX_FILE_BYTES)
    except BadFile as error:
        raise _refused(f"the file {error}") from None
    except (TypeError, ValueError):
        raise _refused("a path that no file can have: it holds U+0000, or is no text") from None


def _encoded(payload: bytes) -> Upload:
    if not payload:
        raise _refused("the file must not be empty")
    digest = hashlib.sha256(payload).digest()
    header = pb.ImageHeader(encoded=pb.EncodedImage(), content_sha256=digest, content_bytes=len(payload))
    return Upload(header, payload)


def _array(image: npt.NDArray[Any], record: PixelRecord | None = None) -> Upload:
    if isinstance(image, np.ma.MaskedArray):
        raise _refused(
            "must not be a masked array: hidden pixels have no value; fill them, for example image.filled(0)"
        )
    pixels = np.asarray(image)  # numpy's own: a subclass's methods may give other bytes than it holds
    if pixels.dtype != np.uint8:
        raise _refused(f"must be an array of uint8, not of {pixels.dtype}; {_WINDOWING}")
    match pixels.shape:
        case (height, width) if height and width:
            return _raw(height, width, 1, pixels.tobytes(), record)
        case (height, width, 3) if height and width:
            return _raw(height, width, 3, pixels.tobytes(), record)
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


def _raw(height: int, width: int, channels: int, payload: bytes, record: PixelRecord | None = None) -> Upload:
    form = pb.RawPixels(height=height, width=width, channels=channels, pixel_type=pb.PIXEL_TYPE_UINT8)
    digest = hashlib.sha256(payload).digest()
    return Upload(pb.ImageHeader(raw=form, content_sha256=digest, content_bytes=len(payload)), payload, record)


def _refused(description: str) -> InvalidArgument:
    return InvalidArgument(f"image: {description}", (FieldViolation("image", description),))
