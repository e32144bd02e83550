"""One ONNX graph in onnxruntime: opened, compared with what the manifest says of it, and run.

Knows session options, graph interfaces, and onnxruntime's failures. Does not know which graphs there are
nor what their tensors mean.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from serving.bundle import BundleError
from serving.errors import EngineFault
from serving.runtime.record import RuntimeRecord
from serving.runtime.worker import Stop

Array = npt.NDArray[Any]

CPU = ("CPUExecutionProvider",)
CUDA = ("CUDAExecutionProvider",)

_PROVIDER_OPTIONS: Mapping[str, Mapping[str, str]] = {
    # By default it searches exhaustively, which stalls each shape's first call, takes powers of two of memory, and
    # multiplies float32 in TF32, whose ten bits move a feature by 1e-2 where golden vectors allow 1e-4.
    CUDA[0]: {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
    },
}

_ELEMENTS: Mapping[str, str] = {
    "tensor(bool)": "bool",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
}
_FAILURES = (
    failures.DeviceReset,
    failures.EPFail,
    failures.EngineError,
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.ModelRequiresCompilation,
    failures.NoModel,
    failures.NoSuchFile,
    failures.NotImplemented,
    failures.RuntimeException,
    MemoryError,
    RuntimeError,
    ValueError,  # an input that is missing
)
"""What onnxruntime raises. Its exceptions share no base class."""


class ProviderError(RuntimeError):
    """An execution provider is not there: install the onnxruntime that has it, or ask for another one."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph's input or output as the manifest demands it."""

    name: str
    element: str
    """numpy's name of its type."""
    shape: tuple[int | None, ...]
    """None where any length goes: the graph must leave it open."""

    def __str__(self) -> str:
        return f"{self.element}[{','.join('*' if length is None else str(length) for length in self.shape)}]"


@dataclass(frozen=True, slots=True)
class Interface:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Graph:
    """An opened graph. ``run`` and ``run_into`` block: call them in a worker's thread."""

    def __init__(
        self,
        path: Path,
        interface: Interface,
        threads: int,
        providers: Sequence[str] = CPU,
        precision: str = "float32",
    ) -> None:
        """Open ``path``, whose operators compute in ``precision``, with ``threads`` threads for each of them.

        Raises:
            BundleError: the graph cannot be read, or is not what ``interface`` says.
            ProviderError: the first of ``providers`` is not there.
        """
        self._name = path.name
        self._outputs = [spec.name for spec in interface.outputs]
        self._session = _open(path, threads, providers)
        self._threads, self._precision = threads, precision
        actual = Interface(_specs(self._session.get_inputs()), _specs(self._session.get_outputs()))
        if problems := differences(interface, actual):
            raise BundleError(f"{path.name} does not fit the manifest: " + "; ".join(problems))

    @property
    def description(self) -> str:
        """The runtime, and its execution provider."""
        return f"onnxruntime/{self._session.get_providers()[0]}"

    @property
    def record(self) -> RuntimeRecord:
        """How it runs."""
        provider = self._session.get_providers()[0]
        precision: str | None = self._precision
        if provider == CUDA[0] and precision == "float32":
            # It rounds products to TF32 unless an option forbids it.
            options = self._session.get_provider_options()[provider]
            precision = {"0": "float32", "1": "tf32"}.get(options.get("use_tf32"))
        return RuntimeRecord("onnxruntime", onnxruntime.__version__, provider, precision, self._threads)

    def run(self, feeds: Mapping[str, Array], stop: Stop) -> tuple[Array, ...]:
        """All outputs, in the interface's order.

        Raises:
            EngineFault: onnxruntime failed.
            Unavailable: ``stop`` was requested.
        """
        stop.check()
        try:
            return tuple(self._session.run(self._outputs, feeds, stop.options))
        except _FAILURES as failure:
            raise self._fault(failure, stop) from failure

    def run_into(self, feeds: Mapping[str, Array], out: Array, stop: Stop) -> None:
        """Write the only output into ``out``, whose shape includes the batch. Raises as ``run`` does."""
        stop.check()
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise EngineFault(f"{self._name}: the output's place is not writable in one piece")
        try:
            binding = self._session.io_binding()
            for name, value in feeds.items():
                binding.bind_cpu_input(name, value)
            binding.bind_output(self._outputs[0], "cpu", 0, out.dtype, list(out.shape), out.ctypes.data)
            self._session.run_with_iobinding(binding, stop.options)
        except _FAILURES as failure:
            raise self._fault(failure, stop) from failure

    def _fault(self, failure: Exception, stop: Stop) -> EngineFault:
        stop.check()  # a terminated run fails too
        return EngineFault(f"{self._name}: onnxruntime failed ({type(failure).__name__})")


def _open(path: Path, threads: int, providers: Sequence[str]) -> Any:  # onnxruntime has no types
    missing = set(providers).difference(onnxruntime.get_available_providers())
    if missing:
        raise ProviderError(
            f"onnxruntime {onnxruntime.__version__} has no {', '.join(sorted(missing))} here: "
            "install the build that has it, or choose another provider (docs/vision.md)"
        )
    complaints = _load_cuda() if CUDA[0] in providers else ""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would take the cores from the other half, which runs at the same time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A pattern is kept for every combination of input lengths, without bound; prompts have many.
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=list(providers),
            provider_options=[dict(_PROVIDER_OPTIONS.get(name, {})) for name in providers],
        )
    except _FAILURES as failure:
        raise BundleError(f"{path.name} cannot be opened: {failure}") from failure
    if session.get_providers()[0] != providers[0]:  # onnxruntime falls back in silence
        raise ProviderError(
            f"{path.name}: {providers[0]} was asked for, {session.get_providers()[0]} came: "
            f"is its GPU visible, and are its libraries there (docs/vision.md)? {complaints}".rstrip()
        )
    return session


@cache  # once in a process, before the first session that needs them
def _load_cuda() -> str:
    """Load CUDA's libraries and cuDNN from their wheels: a host needs no toolkit. Returns complaints."""
    words = io.StringIO()
    with redirect_stdout(words):  # it prints
        onnxruntime.preload_dlls()
    return " ".join(words.getvalue().split())


def differences(expected: Interface, actual: Interface) -> list[str]:
    """What of ``actual`` is not as ``expected``, in words; nothing when it fits."""
    return [
        *_differences("input", expected.inputs, actual.inputs),
        *_differences("output", expected.outputs, actual.outputs),
    ]


def _differences(kind: str, expected: Sequence[TensorSpec], actual: Sequence[TensorSpec]) -> list[str]:
    by_name = {spec.name: spec for spec in actual}
    problems = [f"{kind} {name} is unknown" for name in by_name.keys() - {spec.name for spec in expected}]
    for spec in expected:
        other = by_name.get(spec.name)
        if other is None:
            problems.append(f"{kind} {spec.name} is missing")
        elif other != spec:
            problems.append(f"{kind} {spec.name} is {other}, not {spec}")
    return sorted(problems)


def _specs(nodes: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """An open dimension has a name, or None, instead of a length."""
    return tuple(
        TensorSpec(
            node.name,
            _ELEMENTS.get(node.type, node.type),
            tuple(length if isinstance(length, int) else None for length in node.shape),
        )
        for node in nodes
    )
