"""One graph → one TensorRT plan, by whichever module of TensorRT's Python API is given.

Knows that API. It is given, not imported: ``tensorrt`` builds for the GPU of its host; ``tensorrt_rtx`` has the
same API, builds without a GPU for an architecture that is named, and so shows in CI that TensorRT takes the
graphs. Which one it is shows in its attributes, not in its version. Does not know bundles, files' names or limits.
API: https://docs.nvidia.com/deeplearning/tensorrt/ (releases 10 and 11).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporters.errors import SourceError

Shape = tuple[int, ...]
Runtime = Literal["tensorrt", "tensorrt_rtx"]
_ACTIVATION = re.compile(r"Total Activation Memory: (\d+) bytes")
_TOLD = 8
"""Messages of a failed build that its error repeats."""


class BuildError(SourceError):
    """TensorRT does not take a graph or its profile; the message repeats what it said."""


class EngineUnavailableError(SourceError):
    """There is no TensorRT, or not the GPU that was asked for. The message says what to install or to name."""


@dataclass(frozen=True, slots=True)
class Range:
    """One input's shapes: TensorRT takes all from ``least`` to ``most`` and is fastest at ``usual``."""

    least: Shape
    usual: Shape
    most: Shape


@dataclass(frozen=True, slots=True)
class BuildRequest:
    graph: Path
    profile: Mapping[str, Range]
    """By input."""
    capability: str
    """Of the GPU that will run the plan, such as 9.0."""
    workspace: int | None = None
    """Most bytes that one layer's scratch memory may take; all of the GPU's by default."""


@dataclass(frozen=True, slots=True)
class Built:
    plan: bytes
    timings: bytes | None
    """The timing cache after the build; None where the module keeps none."""
    warnings: tuple[str, ...]
    """What TensorRT had to say of a graph that it took, such as an overflow to be expected."""
    activation: int | None
    """Bytes of GPU memory that one context takes for activations, as the builder logs it; None if it does not."""


class Compiler:
    """TensorRT's builder. One in a process: TensorRT keeps the first logger that it is given."""

    def __init__(self, trt: Any) -> None:  # the module: TensorRT has no types
        self._trt = trt
        self._said: list[str] = []
        self._warned: list[str] = []
        self._informed: list[str] = []
        self._logger = _logger(trt, self._said.append, self._warned.append, self._informed.append)

    @property
    def runtime(self) -> Runtime:
        return "tensorrt_rtx" if self.offline else "tensorrt"

    @property
    def version(self) -> str:
        return str(self._trt.__version__)

    @property
    def offline(self) -> bool:
        """Whether it builds for GPUs that are not here. Such plans are not for Triton."""
        return hasattr(self._trt.IBuilderConfig, "set_compute_capability")

    @property
    def complaints(self) -> str:
        """What TensorRT said last when something failed."""
        return " | ".join(self._said[-_TOLD:])

    def build(self, request: BuildRequest, timings: bytes | None = None) -> Built:
        """Compute in the types that stand in the graph, for the shapes of the profile. Blocks for minutes.

        TF32 is off, which TensorRT takes for float32 otherwise: what stands in float32, in half-precision graphs
        too, is what needs it (the judge's threshold, the position code).

        Args:
            timings: the cache of an earlier build on the same GPU and version. One of another is ignored.

        Raises:
            BuildError: the graph or the profile is not taken.
            EngineUnavailableError: the module cannot build for this architecture.
        """
        for kept in (self._said, self._warned, self._informed):
            kept.clear()
        builder = self._trt.Builder(self._logger)
        network = self._network(builder, request.graph)
        config = builder.create_builder_config()
        self._set_profile(builder, config, network, request)
        self._set_target(config, request.capability)
        self._forbid_tf32(config)
        if request.workspace is not None:
            config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, request.workspace)
        cache = None if self.offline else self._use_timings(config, timings)
        plan = builder.build_serialized_network(network, config)
        if plan is None:  # the reason is in the log alone
            raise self._failed(request.graph, "the build failed")
        timed = None if cache is None else bytes(cache.serialize())
        return Built(bytes(plan), timed, tuple(self._warned), self._logged_activation())

    def load(self, plan: bytes) -> int | None:
        """Bytes of activations in one context, at the profile's largest shapes, if this host's GPU takes the plan.

        None if it does not: never without a GPU.
        """
        self._said.clear()
        engine = self._trt.Runtime(self._logger).deserialize_cuda_engine(plan)
        return None if engine is None else int(engine.device_memory_size_v2)

    def _network(self, builder: Any, graph: Path) -> Any:
        flags = self._trt.NetworkDefinitionCreationFlag
        network = builder.create_network(
            1 << int(flags.STRONGLY_TYPED)
        )  # release 11 knows no other, 10 must be told
        parser = self._trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(graph)):
            errors = (parser.get_error(index) for index in range(parser.num_errors))
            raise self._failed(
                graph, "; ".join(f"{e.code()} at {e.node_operator() or 'the graph'}" for e in errors)
            )
        return network

    def _set_profile(self, builder: Any, config: Any, network: Any, request: BuildRequest) -> None:
        inputs = {network.get_input(index).name for index in range(network.num_inputs)}
        if differ := inputs.symmetric_difference(request.profile):
            raise BuildError(f"{request.graph.name}: graph and profile differ in {', '.join(sorted(differ))}")
        profile = builder.create_optimization_profile()
        for name, shapes in request.profile.items():
            profile.set_shape(name, shapes.least, shapes.usual, shapes.most)
        if config.add_optimization_profile(profile) < 0:
            raise self._failed(request.graph, "the profile is not taken")

    def _set_target(self, config: Any, capability: str) -> None:
        if not self.offline:
            return  # it builds for the GPU that it finds
        target = getattr(self._trt.ComputeCapability, f"SM{capability.replace('.', '')}", None)
        if target is None:
            raise EngineUnavailableError(f"{self.runtime} {self.version} does not build for {capability}")
        config.num_compute_capabilities = 1
        config.set_compute_capability(target, 0)

    def _forbid_tf32(self, config: Any) -> None:
        if (tf32 := getattr(self._trt.BuilderFlag, "TF32", None)) is not None:  # a release without has no TF32
            config.clear_flag(tf32)

    def _logged_activation(self) -> int | None:
        found = [match for words in self._informed if (match := _ACTIVATION.search(words))]
        return int(found[-1][1]) if found else None

    def _use_timings(self, config: Any, timings: bytes | None) -> Any:
        cache = config.create_timing_cache(timings or b"")
        if not config.set_timing_cache(cache, ignore_mismatch=False):
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, ignore_mismatch=False)
        return cache

    def _failed(self, graph: Path, what: str) -> BuildError:
        return BuildError(f"{graph.name}: {what}: {self.complaints}")


def _logger(
    trt: Any, fail: Callable[[str], None], warn: Callable[[str], None], inform: Callable[[str], None]
) -> Any:
    severity_of = trt.ILogger.Severity
    told = {severity_of.INTERNAL_ERROR: fail, severity_of.ERROR: fail, severity_of.WARNING: warn}
    told[severity_of.INFO] = inform

    class Logger(trt.ILogger):  # type: ignore[misc]  # its base comes with the module
        def __init__(self) -> None:
            super().__init__()  # TensorRT crashes on a logger without

        def log(self, severity: Any, message: str) -> None:
            if severity in told:
                told[severity](message)

    return Logger()
