"""A graph as a TensorRT engine: built, and on a host with a GPU run and timed there.

Knows TensorRT's execution API, and torch for memory on the GPU. Does not know how graphs differ.
API: https://docs.nvidia.com/deeplearning/tensorrt/ (releases 10 and 11).
"""

from __future__ import annotations

import statistics
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.attention.encode import image
from exporters.onnx.tensorrt_attention import taken_form
from exporters.tensorrt.compiler import BuildRequest, Built, Compiler, EngineUnavailableError, Range

WARM_UP, RUNS = 10, 100


@cache
def compiler(runtime: str) -> Compiler:
    """One for the process, as TensorRT keeps its first logger."""
    try:
        return Compiler(import_module(runtime))
    except (ImportError, OSError) as error:
        raise EngineUnavailableError(f"{runtime} is not there ({error}): see docs/vision.md") from error


def build(runtime: str, graph: Path, capability: str) -> Built:
    """For one image.

    Raises:
        EngineUnavailableError: the runtime is not here, or does not build for ``capability``.
        BuildError: it does not take the graph.
    """
    profile = {name: Range(value.shape, value.shape, value.shape) for name, value in image().items()}
    with TemporaryDirectory() as work:
        return compiler(runtime).build(BuildRequest(taken_form(graph, Path(work)), profile, capability))


def run(plan: bytes) -> float:
    """Seconds of an encode, inputs and outputs on the GPU; median."""
    trt: Any = import_module("tensorrt")  # it has no types, and those of torch.cuda are not whole
    cuda: Any = torch.cuda
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan)
    context, stream = engine.create_execution_context(), cuda.Stream()
    tensors = {name: torch.from_numpy(value).cuda() for name, value in image().items()}
    for name, tensor in tensors.items():
        context.set_input_shape(name, tuple(tensor.shape))
    for name in {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)} - tensors.keys():
        tensors[name] = torch.empty(tuple(context.get_tensor_shape(name)), device="cuda")
    for name, tensor in tensors.items():
        context.set_tensor_address(name, tensor.data_ptr())
    times: list[float] = []
    for _ in range(WARM_UP + RUNS):
        begin, end = (cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(stream)
        context.execute_async_v3(stream.cuda_stream)
        end.record(stream)
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times[WARM_UP:])
