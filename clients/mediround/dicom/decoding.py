"""One frame's samples, of many or of one, compressed or not; and what decoded them.

Knows where a frame lies in pixel data, which decoder reads which transfer syntax, and in which order they are
tried. Does not know what samples mean. Compressed frames are decoded in a process of their own
(``decoder_process``): its libraries are C and C++, and a frame may come from anybody.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder

from mediround._records import Library
from mediround.dicom.attributes import value_of
from mediround.dicom.bounded import BoundedFile
from mediround.dicom.decoder_process import receive, send
from mediround.dicom.errors import BadPixels, UnsupportedSyntax
from mediround.dicom.limits import DECODE_BYTES, DECODE_SECONDS, START_SECONDS
from mediround.dicom.pixels import PixelModule
from mediround.dicom.quiet import MALFORMED, quiet
from mediround.dicom.source import UNDEFINED, Source

Samples = npt.NDArray[Any]

_JPEG, _JPEG_LS = ("gdcm",), ("pyjpegls", "gdcm")
DECODERS: dict[str, tuple[str, ...]] = {
    uid.JPEGBaseline8Bit: _JPEG,
    uid.JPEGExtended12Bit: _JPEG,
    uid.JPEGLossless: _JPEG,
    uid.JPEGLosslessSV1: _JPEG,
    uid.JPEGLSLossless: _JPEG_LS,
    uid.JPEGLSNearLossless: _JPEG_LS,
    uid.JPEG2000Lossless: _JPEG,
    uid.JPEG2000: _JPEG,
    uid.RLELossless: ("pydicom",),
}
"""Transfer syntaxes and pydicom's plug-ins, in the order that they are tried in. Decoders disagree on lossy
images: with another order an image has another embedding."""

_HEAD_BYTES = 1 << 16
_DISTRIBUTIONS = {"gdcm": "python-gdcm", "pyjpegls": "pyjpegls", "pydicom": "pydicom"}


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame's samples, (rows, columns) or (rows, columns, 3); RGB where it was YBR."""

    samples: Samples
    photometric: str
    libraries: tuple[Library, ...]


def decoded_frame(source: Source, module: PixelModule, index: int) -> DecodedFrame:
    """Decode one frame, and no other.

    Raises:
        UnsupportedSyntax, BadPixels: it cannot be decoded.
        OSError: the file cannot be read.
    """
    try:
        if source.syntax.is_encapsulated:
            return _compressed(source, module, index)
        with quiet():
            return _plain(source, module, index)
    except MALFORMED as error:
        if type(error) in {OSError, FileNotFoundError, PermissionError}:
            raise
        raise BadPixels(f"the pixel data is damaged ({type(error).__name__})") from None


def _plain(source: Source, module: PixelModule, index: int) -> DecodedFrame:
    bits, place = module.frame_bits, module.place
    if place.length == UNDEFINED:
        raise BadPixels("the pixel data must have a length: its transfer syntax is not compressed")
    expected = -(-bits * module.frames // 8)
    with source.value() as file:
        length = min(place.length, file.size - file.tell())
        if length < expected:
            raise BadPixels(f"the pixel data must have {expected} bytes; it has {length}")
        frame = _bytes(source, module, file, bits * index // 8, -(-bits * (index + 1) // 8))
    if module.allocated == 1:  # frames are packed without a gap
        packed = np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")
        first = bits * index % 8
        samples: Samples = packed[first : first + bits].reshape(module.rows, module.columns)
        return DecodedFrame(samples, module.photometric, (_library("pydicom"),))
    options = _options(module) | {"pixel_vr": "OB"}
    samples, properties = get_decoder(source.syntax).as_array(frame, index=0, **options)
    native = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    return DecodedFrame(native, str(properties["photometric_interpretation"]), (_library("pydicom"),))


def _bytes(source: Source, module: PixelModule, file: BoundedFile, start: int, end: int) -> bytes:
    """From one byte of the value to another, samples of 8 bits in their order."""
    swapped = not source.syntax.is_little_endian and module.allocated == 8 and module.place.vr == "OW"
    first = start - start % 2 if swapped else start
    file.seek(first, os.SEEK_CUR)
    data = file.read(end + end % 2 - first if swapped else end - first)
    if swapped:  # two samples share a word (PS3.5, annex A.3)
        data = np.frombuffer(data, "u2").byteswap().tobytes()
    return data[start - first : end - first]


def _compressed(source: Source, module: PixelModule, index: int) -> DecodedFrame:
    plugins = DECODERS.get(source.syntax)
    if plugins is None:
        raise UnsupportedSyntax(f"no decoder reads {source.syntax.name}: transcode it (gdcmconv --raw)")
    if source.syntax == uid.JPEGExtended12Bit and module.stored != 8:
        raise UnsupportedSyntax(f"no decoder reads {source.syntax.name} of more than 8 bits: transcode it")
    offsets = value_of(source.header, "ExtendedOffsetTable"), value_of(source.header, "ExtendedOffsetTableLengths")
    with quiet(), source.value() as file:
        frame = get_frame(
            file,
            index,
            number_of_frames=module.frames,
            extended_offsets=offsets if None not in offsets else None,
        )
    if not frame:
        raise BadPixels("the pixel data holds no such frame")
    options = _options(module) | {"transfer_syntax_uid": str(source.syntax)}
    samples = module.rows * module.columns * module.samples
    head, body = _PROCESS.ask({"options": options, "plugins": plugins}, frame, samples)
    if "plugin" not in head:
        raise BadPixels(f"no decoder reads the frame ({', '.join(head['refusals'])})")
    pixels = np.frombuffer(body, head["dtype"]).reshape(head["shape"])
    if pixels.shape[:2] != (module.rows, module.columns):
        raise BadPixels("the frame must have Rows x Columns pixels")
    libraries = dict.fromkeys((head["plugin"], "pydicom"))
    photometric = str(head["photometric_interpretation"])
    return DecodedFrame(pixels, photometric, tuple(_library(each) for each in libraries))


def _options(module: PixelModule) -> dict[str, Any]:
    return {
        "number_of_frames": 1,
        "rows": module.rows,
        "columns": module.columns,
        "samples_per_pixel": module.samples,
        "photometric_interpretation": module.photometric,
        "bits_allocated": module.allocated,
        "bits_stored": module.stored,
        "pixel_representation": int(module.signed),
        "planar_configuration": module.planar,
        "pixel_keyword": module.place.keyword,
    }


def _library(plugin: str) -> Library:
    distribution = _DISTRIBUTIONS[plugin]
    return Library(distribution, version(distribution))


class DecoderProcess:
    """The process, started when it is first needed, and anew after it has died. One frame at a time."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: dict[str, Any], frame: bytes, samples: int) -> tuple[dict[str, Any], bytes]:
        """Its answer; ``samples``: how many the frame has. Raises BadPixels where it takes too long, or the
        process with it.
        """
        seconds = DECODE_SECONDS + samples / 1_000_000
        with self._lock:
            process = self._started()
            try:
                with _killed_after(process, seconds):
                    send(_pipe(process.stdin), request, frame)
                    return receive(_pipe(process.stdout), 8 * samples + _HEAD_BYTES)
            except (EOFError, OSError, ValueError, MemoryError):
                self._ended()
                raise BadPixels(f"the decoder failed on the frame, or took more than {seconds:.0f} s") from None

    def close(self) -> None:
        with self._lock:
            self._ended()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and (self._owner != os.getpid() or self._process.poll() is not None):
            self._ended()  # a fork's copy is its parent's
        if self._process is None:
            code = f"from mediround.dicom.decoder_process import serve; serve({self._max_bytes})"
            self._process = subprocess.Popen(  # noqa: S603  # this Python, and a number of ours
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            self._owner = os.getpid()
            try:
                with _killed_after(self._process, START_SECONDS):
                    receive(_pipe(self._process.stdout), _HEAD_BYTES)
            except (EOFError, OSError, ValueError):
                self._ended()
                raise BadPixels(f"the process that decodes must start within {START_SECONDS:g} s") from None
        return self._process

    def _ended(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if self._owner == os.getpid():
            process.kill()
            process.wait()


@contextlib.contextmanager
def _killed_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _pipe(stream: IO[bytes] | None) -> BinaryIO:
    return cast(BinaryIO, stream)  # opened with the process


# One for the interpreter: it takes a second to start, and holds no object beyond its answer.
_PROCESS = DecoderProcess(DECODE_BYTES)
atexit.register(_PROCESS.close)
