"""``tensorrt`` as far as the compiler asks of it: parses nothing, and its plans are words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from exporters.tensorrt import triton_release
from serving.bundle import IMAGE_ENCODER, MASK_DECODER

ACTIVATION = 1 << 29
"""Bytes, of each plan once it is loaded."""


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"+"


class Config:
    def __init__(self, trt: TensorRt) -> None:
        self._trt = trt

    def clear_flag(self, flag: str) -> None:
        self._trt.cleared.append(flag)

    def create_timing_cache(self, content: bytes) -> Cache:
        return Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        self._trt.caches.append(cache.content)
        return cache.content not in self._trt.foreign_caches

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self._trt.pools.append((pool, size))


class TensorRt:
    """The module."""

    __version__ = triton_release.TENSORRT
    IBuilderConfig = Config
    BuilderFlag: Any = SimpleNamespace(TF32="tf32", REFIT="refit")
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3)

    def __init__(self) -> None:
        self.builds: list[str] = []
        self.caches: list[bytes] = []
        self.foreign_caches: set[bytes] = set()
        self.pools: list[tuple[str, int]] = []
        self.cleared: list[str] = []
        """Flags of builds."""
        self.loads = True

    def Builder(self, logger: Any) -> Any:  # noqa: N802  # TensorRT's name
        def serialized(network: Any, config: Any) -> bytes:
            logger.log(self.ILogger.Severity.WARNING, "a warning")
            self.builds.append(network.path.name)
            return b"plan of " + network.path.name.encode()

        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(path=None),
            create_builder_config=lambda: Config(self),
            create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *shapes: None),
            build_serialized_network=serialized,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802  # TensorRT's name
        def parse(path: str) -> bool:
            network.path = Path(path)
            inputs = {
                IMAGE_ENCODER: ("image_u8", "valid_hw"),
                MASK_DECODER: ("image_embeddings", "seg_features", "threshold"),
            }[network.path.name]
            network.num_inputs, network.get_input = (
                len(inputs),
                lambda index: SimpleNamespace(name=inputs[index]),
            )
            return True

        return SimpleNamespace(parse_from_file=parse)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802  # TensorRT's name
        def load(plan: bytes) -> object | None:
            logger.log(self.ILogger.Severity.ERROR, "incompatible device")
            return SimpleNamespace(device_memory_size_v2=ACTIVATION) if self.loads else None

        return SimpleNamespace(deserialize_cuda_engine=load)
