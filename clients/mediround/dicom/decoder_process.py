"""A process that decodes compressed frames: what crashes, hangs or eats memory there does so alone.

Knows pydicom's decoders and a form of messages on its standard streams. Does not know objects: a frame's bytes and
how they lie there are all that it gets. ``mediround.dicom.decoding`` starts it and holds its time.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder

from mediround.dicom.quiet import MALFORMED, quiet

_MOST_BYTES = 1 << 40


def send(stream: BinaryIO, head: dict[str, Any], body: bytes | memoryview = b"") -> None:
    """A message: the lengths of its two parts, 8 bytes each, JSON, bytes."""
    text = json.dumps(head).encode()
    stream.write(len(text).to_bytes(8) + len(body).to_bytes(8) + text)
    stream.write(body)
    stream.flush()


def receive(stream: BinaryIO, max_bytes: int = _MOST_BYTES) -> tuple[dict[str, Any], bytes]:
    """Raises EOFError when the other side is gone, ValueError for a message of more than ``max_bytes``."""
    lengths = stream.read(16)
    if len(lengths) < 16:
        raise EOFError
    text, body = int.from_bytes(lengths[:8]), int.from_bytes(lengths[8:])
    if max(text, body) > max_bytes:
        raise ValueError("a message is too long")
    head = stream.read(text)
    return json.loads(head), stream.read(body)


def decoded(frame: bytes, options: dict[str, Any], plugins: list[str]) -> tuple[dict[str, Any], bytes]:
    """One frame's samples, (rows, columns[, 3]); the first plug-in that reads it is the one that is named."""
    refusals = []
    decoder = get_decoder(options.pop("transfer_syntax_uid"))
    for plugin in plugins:
        try:
            pixels, properties = decoder.as_array(encapsulate([frame]), index=0, decoding_plugin=plugin, **options)
        except MALFORMED as error:
            refusals.append(type(error).__name__)
            continue
        pixels = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"), copy=False))
        head = {"plugin": plugin, "dtype": pixels.dtype.str, "shape": pixels.shape}
        photometric = properties["photometric_interpretation"]
        return head | {"photometric_interpretation": photometric}, pixels.tobytes()
    return {"refusals": refusals}, b""


def serve(max_bytes: int) -> None:
    """Answer until the other side is gone."""
    with suppress(ModuleNotFoundError, ValueError, OSError):  # not on Windows
        resource = importlib.import_module("resource")
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Decoders print to the standard streams: the answers go where they do not.
    with os.fdopen(os.dup(1), "wb") as answers, suppress(EOFError), quiet():
        os.dup2(2, 1)
        send(answers, {})  # ready
        while True:
            request, frame = receive(sys.stdin.buffer)
            try:
                send(answers, *decoded(frame, request["options"], request["plugins"]))
            except MemoryError:
                send(answers, {"refusals": ["MemoryError"]})
