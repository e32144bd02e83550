"""The image encoder in this process, by OpenVINO: in bfloat16 on CPUs that have it, faster than onnxruntime.

The only module that imports OpenVINO, and only when it is asked for. The precision is always set: left alone,
OpenVINO chooses by the host's CPU. Does not know the other graphs, which onnxruntime runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from serving.bundle import BundleError
from serving.errors import EngineFault
from serving.runtime.graph import Array, Interface, ProviderError, TensorSpec, differences
from serving.runtime.record import RuntimeRecord
from serving.runtime.worker import Stop

HostPrecision = Literal["f32", "bf16"]
"""What the operators compute in, as OpenVINO calls it; the graph, its inputs and its output keep their types."""

LOOK_MS = 20
"""How often a run looks whether it should stop."""


class OpenVinoEncoder:
    """The image encoder of a bundle, one image at a time. ``run_into`` blocks: call it in a worker's thread."""

    def __init__(self, path: Path, interface: Interface, threads: int, precision: HostPrecision) -> None:
        """Open ``path`` with ``threads`` threads.

        Raises:
            BundleError: the graph cannot be read, or is not what ``interface`` says.
            ProviderError: OpenVINO is not installed, or this CPU has no bfloat16.
        """
        openvino = _openvino()
        core = openvino.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in capabilities:
            raise ProviderError(
                f"openvino-bf16: this CPU computes in {', '.join(capabilities)} and would only imitate bfloat16: "
                "choose openvino-f32 or onnx for --engines.encoder"
            )
        self._name, self._precision = path.name, precision
        self._output = interface.outputs[0].name
        try:
            model = core.read_model(path)
            actual = Interface(_specs(model.inputs), _specs(model.outputs))
            if problems := differences(interface, actual):
                raise BundleError(f"{path.name} does not fit the manifest: " + "; ".join(problems))
            model.reshape({spec.name: [1, *map(_length, spec.shape[1:])] for spec in interface.inputs})
            compiled = core.compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": precision,
                    "EXECUTION_MODE_HINT": "PERFORMANCE",  # the other one means f32, whatever is hinted
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": threads,
                    "ENABLE_CPU_PINNING": False,  # the other half runs at the same time
                },
            )
        except RuntimeError as failure:
            raise BundleError(f"{path.name} cannot be opened: {failure}") from failure
        self._tensor, self._request = openvino.Tensor, compiled.create_infer_request()
        dtype = {"f32": "float32", "bf16": "bfloat16"}[precision]
        self._record = RuntimeRecord("openvino", openvino.get_version(), "CPU", dtype, threads)

    @property
    def description(self) -> str:
        return f"openvino/{self._precision}"

    @property
    def record(self) -> RuntimeRecord:
        """How it runs."""
        return self._record

    def run_into(self, feeds: Mapping[str, Array], out: Array, stop: Stop) -> None:
        """Write the only output into ``out``, whose shape includes the batch of one.

        Raises:
            EngineFault: OpenVINO failed, or ``out`` cannot be written in one piece.
            Unavailable: ``stop`` was requested.
        """
        stop.check()
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise EngineFault(f"{self._name}: the output's place is not writable in one piece")
        try:
            # Kept until the end. What cannot be written, as Pillow hands pictures out, cannot be shared.
            whole = {name: np.require(value, requirements=("C", "W")) for name, value in feeds.items()}
            for name, value in whole.items():
                self._request.set_tensor(name, self._tensor(value, shared_memory=True))
            self._request.set_tensor(self._output, self._tensor(out, shared_memory=True))
            self._request.start_async()
            while not self._request.wait_for(LOOK_MS):
                if stop.requested:
                    self._request.cancel()
                    break
            self._request.wait()  # nothing writes into ``out`` from here on
        except RuntimeError as failure:
            stop.check()  # a cancelled run fails too
            raise EngineFault(f"{self._name}: openvino failed ({type(failure).__name__})") from failure
        stop.check()


def _openvino() -> Any:  # its stubs do not pass mypy, and it is an extra
    # Its converter, which it imports with itself, tells its maker of runs by this package; without it, by a stub.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's own way to say: not here
    try:
        return import_module("openvino")
    except ImportError as error:
        raise ProviderError(
            "openvino is not installed: in the repository, pip install ./clients '.[cpu,openvino]', "
            f"or choose onnx for --engines.encoder ({error})"
        ) from error


def _specs(ports: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            port.get_any_name(),
            str(np.dtype(port.get_element_type().to_dtype())),
            tuple(None if length.is_dynamic else length.get_length() for length in port.get_partial_shape()),
        )
        for port in ports
    )


def _length(length: int | None) -> int:
    if length is None:
        raise BundleError("an image encoder leaves nothing open but its batch")
    return length
