"""Engine records: what computed a result, as the server says it.

Knows the public values, how they are read from messages and, for a server of tests, written. Does not know calls,
or how a digest is computed: the contract says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mediround.v1 import segmentation_pb2 as pb


@dataclass(frozen=True, slots=True)
class RuntimeRecord:
    """How one part of the model runs. None for what it does not say of itself.

    Attributes:
        engine: ``onnxruntime``, ``openvino``, ``triton``, ``vllm``; empty where it is not known.
        version: of the engine.
        provider: execution provider, device or backend, in the engine's own words.
        precision: what it computes in, for example ``float32``; ``tf32`` is float32 whose products may be rounded.
        threads: within an operator.
        runner: vLLM's model runner, ``v1`` or ``v2``.
    """

    engine: str
    version: str | None = None
    provider: str | None = None
    precision: str | None = None
    threads: int | None = None
    runner: str | None = None


@dataclass(frozen=True, slots=True)
class Library:
    """A library that pixels pass.

    Attributes:
        name: for example ``libjpeg-turbo``.
        version: of the library.
    """

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class PixelRecord:
    """How the bytes of an image became the model's input, and its output a mask.

    Attributes:
        libraries: what decodes files and resizes.
        window: what makes 8 bits of stored values. Of a server: the name of its rule, ``none`` where it takes 8
            bits alone. Of an image: the window that was used, where it comes from, and what stored values mean;
            ``none`` for colour.
    """

    libraries: tuple[Library, ...] = ()
    window: str = ""


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What computes a round: the model, the software, and how each part of the model runs.

    Attributes:
        digest: SHA-256, hex, of all the rest; ``RoundResult.engine_digest`` of what this computed.
        model_name: the bundle's name.
        model_version: the bundle's version.
        model_digest: SHA-256 of the bundle's manifest, hex.
        server_version: of the serving software.
        pixels: how bytes became pixels: libraries, window.
        language: what reads the dialogue.
        image_encoder: what computes an image's embedding.
        mask_decoder: what draws masks.
    """

    digest: str
    model_name: str
    model_version: str
    model_digest: str
    server_version: str
    pixels: PixelRecord
    language: RuntimeRecord
    image_encoder: RuntimeRecord
    mask_decoder: RuntimeRecord


def engine_record(message: pb.EngineRecord) -> EngineRecord:
    return EngineRecord(
        digest=message.digest,
        model_name=message.bundle.name,
        model_version=message.bundle.version,
        model_digest=message.bundle.digest,
        server_version=message.server_version,
        pixels=PixelRecord(
            tuple(Library(each.name, each.version) for each in message.pixels.libraries), message.pixels.window
        ),
        language=_runtime(message.language),
        image_encoder=_runtime(message.image_encoder),
        mask_decoder=_runtime(message.mask_decoder),
    )


def stored_engine_record(values: Mapping[str, Any]) -> EngineRecord:
    """The reverse of ``dataclasses.asdict``. Raises TypeError or KeyError for what is none."""
    parts = {name: RuntimeRecord(**values[name]) for name in ("language", "image_encoder", "mask_decoder")}
    libraries = tuple(Library(**each) for each in values["pixels"]["libraries"])
    pixels = PixelRecord(libraries, values["pixels"]["window"])
    return EngineRecord(**{**values, **parts, "pixels": pixels})


def engine_record_message(record: EngineRecord) -> pb.EngineRecord:
    libraries = [pb.Library(name=each.name, version=each.version) for each in record.pixels.libraries]
    return pb.EngineRecord(
        digest=record.digest,
        bundle=pb.BundleRecord(name=record.model_name, version=record.model_version, digest=record.model_digest),
        server_version=record.server_version,
        pixels=pb.PixelRecord(libraries=libraries, window=record.pixels.window),
        language=_runtime_message(record.language),
        image_encoder=_runtime_message(record.image_encoder),
        mask_decoder=_runtime_message(record.mask_decoder),
    )


def _runtime(message: pb.RuntimeRecord) -> RuntimeRecord:
    return RuntimeRecord(**{"engine": ""} | {field.name: value for field, value in message.ListFields()})


def _runtime_message(record: RuntimeRecord) -> pb.RuntimeRecord:
    return pb.RuntimeRecord(**asdict(record))  # None leaves a field out
