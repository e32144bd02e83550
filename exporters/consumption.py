"""A checkpoint's files on their way into a bundle: deleted one by one, each once its last tensor is written.

Knows which tensors each file still owes, and what room on a disk that takes. Does not know the bundle, or whether
anybody wants it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from exporters.checkpoint.shards import PlannedTensor
from exporters.checkpoint.tensor_files import TensorFile
from exporters.vllm_model import VllmPlan


class Consumption:
    """Of one plan. Files of which the plan reads nothing are owed nothing."""

    def __init__(self, files: Iterable[TensorFile], plan: VllmPlan) -> None:
        self._files, self._plan = tuple(files), plan
        self._owed = Counter(file for name in plan.sources for file in self._sources(name))

    def most_bytes(self) -> int:
        """The most that the plan's tensors take beyond what deleting has freed, at any one time."""
        owed, taken, most = Counter(self._owed), 0, 0
        for tensor in self._plan.tensors:
            taken += tensor.form.nbytes
            most = max(most, taken)
            for file in self._sources(tensor.name):
                owed[file] -= 1
                taken -= file.path.stat().st_size if owed[file] == 0 else 0
        return most

    def written(self, tensor: PlannedTensor) -> None:
        """Delete the files that this tensor was the last of."""
        for file in self._sources(tensor.name):
            self._owed[file] -= 1
            if self._owed[file] == 0:
                _delete(file)

    def rest(self) -> None:
        """Delete the files that nothing was read from."""
        for file in self._files:
            if self._owed[file] <= 0:
                _delete(file)

    def _sources(self, name: str) -> list[TensorFile]:
        """Of the checkpoint's files: CLIP's own weights are not consumed."""
        return [file for file in self._plan.sources[name] if file in self._files]


def _delete(file: TensorFile) -> None:
    file.close()  # a mapped file keeps its place on the disk
    file.path.unlink(missing_ok=True)
