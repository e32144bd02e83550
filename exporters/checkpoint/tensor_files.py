"""Files of tensors, read one tensor at a time: those of ``torch.save`` in its zip form, and safetensors.

Knows both forms, which files of a directory are one checkpoint, and how to read much with little memory. Does not
know what the tensors are (``exporters.checkpoint.published``). Nothing in a file is ever executed: tensors only.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from exporters.errors import IncompleteCheckpointError, NotACheckpointError, UnsafeCheckpointError

MAPPED_BYTES = 1 << 30
"""What is read through one mapping of a file: its pages count as this process's memory until another is made."""
SAFETENSORS = ".safetensors"
INDEX = ".index.json"
_STEMS = {"pytorch_model": ".bin", "model": SAFETENSORS}
"""Beginnings of a checkpoint's files and their ends; the first of which a directory has a file is read."""
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)\.")


@dataclass(frozen=True, slots=True)
class TensorForm:
    """What is known of a stored tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def elements(self) -> int:
        return int(torch.Size(self.shape).numel())

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize


class TensorFile:
    """One file, open for as long as the object lives, or up to ``close``."""

    def __init__(self, path: Path) -> None:
        """Raises NotACheckpointError, UnsafeCheckpointError: what is wrong with the file, and the remedy."""
        self.path = path
        self._mapped: Mapping[str, Tensor] | None = _opened(path)
        self._read_bytes = 0
        self.forms = {name: TensorForm(tuple(each.shape), each.dtype) for name, each in self._mapped.items()}

    def read(self, name: str) -> Tensor:
        """A view of the mapped file: let go of it before the next is asked for, where memory matters."""
        if self._mapped is None or self._read_bytes >= MAPPED_BYTES:
            self._mapped = None  # the old pages first
            self._mapped, self._read_bytes = _opened(self.path), 0
        self._read_bytes += self.forms[name].nbytes
        return self._mapped[name]

    def close(self) -> None:
        """Let go of the file's pages; a later ``read`` opens it again."""
        self._mapped = None


def checkpoint_files(directory: Path) -> list[Path]:
    """The files of a directory that are one checkpoint, sorted; none if there is none.

    Those that an index names, or else all of that form; ``pytorch_model*.bin`` before ``model*.safetensors``.

    Raises:
        IncompleteCheckpointError: a file that the index or the numbering speaks of is missing.
    """
    for stem, end in _STEMS.items():
        index = directory / f"{stem}{end}{INDEX}"
        if index.is_file():
            return _complete([directory / name for name in _indexed(index)], index.name)
        if files := sorted(directory.glob(f"{stem}*{end}")):
            return _complete([*files, *_numbered(files)], "the files' numbering")
    return []


def _indexed(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotACheckpointError(f"{index} cannot be read: it must hold a weight_map. Copy it again.") from error
    if outside := [name for name in names if Path(name).name != name]:
        raise NotACheckpointError(f"{index} names {outside[0]!r}: must be a file beside it.")
    return names


def _numbered(files: list[Path]) -> Iterator[Path]:
    """All that a name like ``pytorch_model-00002-of-00003.bin`` says there are."""
    for path in files:
        if match := _NUMBERED.search(path.name):
            width, count = len(match[1]), int(match[2])
            for number in range(1, count + 1):
                yield path.with_name(f"{path.name[: match.start(1)]}{number:0{width}}{path.name[match.end(1) :]}")
            return


def _complete(files: list[Path], source: str) -> list[Path]:
    if missing := sorted({path.name for path in files if not path.is_file()}):
        raise IncompleteCheckpointError(
            f"{files[0].parent}: {', '.join(missing)} missing, of which {source} speaks. Copy all of the shards."
        )
    return sorted(set(files))


def _opened(path: Path) -> Mapping[str, Tensor]:
    return _SafeTensors(path) if path.name.endswith(SAFETENSORS) else read_tensors(path)


class _SafeTensors(Mapping[str, Tensor]):
    """A safetensors file as a mapping; each tensor a view of it."""

    def __init__(self, path: Path) -> None:
        self._file: Any  # its library is untyped
        try:
            self._file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise NotACheckpointError(f"{path} cannot be read ({_first_line(error)}). Copy it again.") from error
        self._names: list[str] = list(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one ``torch.save`` file, memory-mapped; code in it is refused, never run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(
            f"{path} holds more than tensors, which could run code when loaded: refused. Only load files you "
            f"trust into torch, and save their state dict alone. ({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise NotACheckpointError(
            f"{path} is not a whole file of torch.save in its zip form ({_first_line(error)}). Copy it again, or "
            "save the state dict with torch >= 1.6."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise NotACheckpointError(f"{path} is not a state dict (names to tensors). Save model.state_dict().")
    return state


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
