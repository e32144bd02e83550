"""Files beside an ONNX graph that hold its large tensors, read from the graph's own bytes.

Knows as much of ONNX's protobuf form (onnx.proto) as it takes to find every tensor's location, in subgraphs and
functions too; the server does not depend on ``onnx``, and a graph of 2 GiB must not be parsed into memory for it.
Does not know what a graph computes, nor manifests.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

# Message → field number → the message that it holds. What is not here cannot hold a tensor.
_FORM: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_DEEPEST = 100  # protobuf's own limit of nesting


class MalformedGraph(ValueError):
    """The file is no ONNX graph; the message says what is wrong with its bytes."""


def locations(path: Path) -> frozenset[str]:
    """The files that a graph's tensors refer to, as it names them: relative to its own directory.

    Raises:
        MalformedGraph: the bytes are no protobuf message.
        OSError: the file cannot be read.
    """
    if not path.stat().st_size:
        raise MalformedGraph("it is empty")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return frozenset(_locations(data, range(len(data)), "model", 0))


def reference_problems(graph: Path, suffix: str, *, listed: bool) -> Iterator[str]:
    """What is wrong with the files that a graph refers to; it may refer to its own name with ``suffix`` alone.

    ``listed``: whether that file is under a digest.
    """
    external = graph.name + suffix
    try:
        referred = locations(graph)
    except MalformedGraph as error:
        yield f"is no ONNX graph: {error}"
        return
    yield from (f"refers to {other}, must refer to {external} alone" for other in sorted(referred - {external}))
    if external in referred and not listed:
        yield f"refers to {external}, which is not listed in the manifest"


def _locations(data: mmap.mmap, message: range, kind: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise MalformedGraph(f"messages are nested deeper than {_DEEPEST}")
    for number, value in _fields(data, message):
        inner = _FORM[kind].get(number)
        if inner == "external":
            entry = {key: data[text.start : text.stop] for key, text in _fields(data, value)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8", errors="replace")
        elif inner is not None:
            yield from _locations(data, value, inner, depth + 1)


def _fields(data: mmap.mmap, message: range) -> Iterator[tuple[int, range]]:
    """Number of each field that is a string, bytes or a message, and where its value lies."""
    at = message.start
    while at < message.stop:
        key, at = _varint(data, at, message.stop)
        number, wire = key >> 3, key & 7
        length = 0
        if wire in _FIXED:
            length = _FIXED[wire]
        elif wire in {_VARINT, _BYTES}:
            length, at = _varint(data, at, message.stop)
        else:
            raise MalformedGraph(f"wire type {wire} does not occur in ONNX")
        end = at if wire == _VARINT else at + length
        if end > message.stop or number == 0:
            raise MalformedGraph("a field does not end within its message")
        if wire == _BYTES:
            yield number, range(at, end)
        at = end


def _varint(data: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for position in range(at, min(stop, at + 10)):
        value |= (data[position] & 0x7F) << 7 * (position - at)
        if data[position] < 0x80:
            return value, position + 1
    raise MalformedGraph("a number does not end within its message")
