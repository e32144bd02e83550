"""Safetensors files written tensor by tensor: each file's digest grows with it, and memory holds one tensor.

Knows the form (https://huggingface.co/docs/safetensors), how tensors are divided among files, and the index that
joins these. Does not know where a tensor comes from, or who reads it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from exporters.checkpoint.tensor_files import INDEX, SAFETENSORS, TensorForm
from exporters.errors import UnsupportedSourceError

SHARD_BYTES = 4 << 30
"""Most of tensors in one file, unless one tensor alone is larger."""
STEM = "model"
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNED = 8


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to be written: what it will be, and how it is made when its turn comes."""

    name: str
    form: TensorForm
    read: Callable[[], Tensor]


def write_shards(
    tensors: Sequence[PlannedTensor],
    directory: Path,
    written: Callable[[PlannedTensor], None],
    most: int = SHARD_BYTES,
) -> dict[str, str]:
    """Write ``model.safetensors``, or numbered files and their index. Returns each file's SHA-256 by its name.

    Args:
        tensors: written in this order, but within a file the larger types first.
        written: told of each tensor once its bytes are in the file.

    Raises:
        UnsupportedSourceError: a type that vLLM's weights cannot have.
    """
    parts = list(divided(tensors, most))
    count = len(parts)
    names = [
        STEM + (f"-{number:05}-of-{count:05}" if count > 1 else "") + SAFETENSORS for number in range(1, count + 1)
    ]
    digests = {name: _write(part, directory / name, written) for name, part in zip(names, parts, strict=True)}
    if count > 1:
        owners = {each.name: name for name, part in zip(names, parts, strict=True) for each in part}
        total = sum(each.form.nbytes for each in tensors)
        index = (
            json.dumps({"metadata": {"total_size": total}, "weight_map": owners}, indent=2, sort_keys=True) + "\n"
        )
        name = STEM + SAFETENSORS + INDEX
        (directory / name).write_text(index, encoding="utf-8")
        digests[name] = hashlib.sha256(index.encode()).hexdigest()
    return digests


def divided(tensors: Sequence[PlannedTensor], most: int) -> Iterator[list[PlannedTensor]]:
    """In order, each part of at most ``most`` bytes, unless one tensor alone is larger."""
    part: list[PlannedTensor] = []
    nbytes = 0
    for each in tensors:
        if part and nbytes + each.form.nbytes > most:
            yield part
            part, nbytes = [], 0
        part.append(each)
        nbytes += each.form.nbytes
    yield part


def _write(part: Sequence[PlannedTensor], path: Path, written: Callable[[PlannedTensor], None]) -> str:
    # A reader views each tensor in place, so that each must begin at a multiple of its elements' size.
    ordered = sorted(part, key=lambda each: -each.form.dtype.itemsize)
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        header = _header(ordered)
        for data in (struct.pack("<Q", len(header)), header):
            digest.update(data)
            stream.write(data)
        for each in ordered:
            values = _bytes(each)
            digest.update(values)
            stream.write(values)
            del values  # before the next is read
            written(each)
    return digest.hexdigest()


def _header(ordered: Sequence[PlannedTensor]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for each in ordered:
        if each.form.dtype not in _NAMES:
            raise UnsupportedSourceError(f"{each.name} is {each.form.dtype}: name a type with --vllm-dtype.")
        entries[each.name] = {
            "dtype": _NAMES[each.form.dtype],
            "shape": list(each.form.shape),
            "data_offsets": [at, at + each.form.nbytes],
        }
        at += each.form.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % _ALIGNED)


def _bytes(planned: PlannedTensor) -> memoryview:
    """The tensor's values, row by row."""
    value = planned.read()
    if TensorForm(tuple(value.shape), value.dtype) != planned.form:
        raise AssertionError(f"{planned.name} was planned as {planned.form}, and is {value.shape}, {value.dtype}")
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
