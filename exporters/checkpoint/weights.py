"""A checkpoint's tensors by name: where each is stored, and what is done to it when it is read.

Knows the LoRA merge. Does not know names (``exporters.checkpoint.published``) or files' forms
(``exporters.checkpoint.tensor_files``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from exporters.checkpoint.tensor_files import TensorFile, TensorForm


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of a checkpoint: where it is stored, and what is done to it when it is read."""

    file: TensorFile
    name: str
    """In the file."""
    lora: tuple[Weight, Weight] | None = None
    """A (r, inputs) and B (outputs, r)."""
    scale: float = 0.0
    """alpha / r."""

    @property
    def form(self) -> TensorForm:
        """As stored; merged, it is read as float32."""
        return self.file.forms[self.name]

    @property
    def files(self) -> frozenset[TensorFile]:
        """All that must be there to read it."""
        return frozenset({self.file}).union(*(each.files for each in self.lora or ()))

    def read(self) -> Tensor:
        """As stored; with LoRA, W + alpha / r · B A in float32."""
        weight = self.file.read(self.name)
        if self.lora is None:
            return weight
        a, b = (each.read().float() for each in self.lora)
        return weight.float() + self.scale * (b @ a)


class Tensors(Mapping[str, Tensor]):
    """Tensors by name, each read when it is asked for."""

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        self.weights = weights

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    def renamed(self, rename: Callable[[str], str]) -> Tensors:
        return Tensors({rename(name): weight for name, weight in self.weights.items()})
