"""Triton's model repository for a bundle: one folder a model, with its ``config.pbtxt`` and its graph.

Knows Triton's configuration and the limits of production. Tensors come from the manifest, so the committed
``model_repository/`` (the published model's sizes) and the small model's are written from one source. Does not
know TensorRT: plans are built into the folders afterwards (``python -m exporters tensorrt``). Fields:
Triton's ``model_config.proto``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from exporters import hardlink
from exporters.errors import SourceError
from serving.bundle import EXTERNAL, IMAGE_ENCODER, MASK_DECODER, Bundle, ImageSpec
from serving.runtime.graph import Interface, TensorSpec
from serving.vision.interface import decoder_interface, encoder_interface

CONFIG = "config.pbtxt"
CPU_CONFIG = "configs/cpu.pbtxt"
"""Taken by ``tritonserver --model-config-name=cpu``."""
VERSION = "1"
GRAPH = "model.onnx"
PLAN = "model.plan"
CAPABILITIES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
"""GPU architectures whose plan has a name of its own, so that hosts of several kinds may share a repository."""

PUBLISHED = ImageSpec(side=1024, preprocessing="sam_mean_std", embedding=(256, 64, 64), logits_side=256)
"""MediRound's image half: SAM ViT-B at 1024, features of 256."""
FEATURE = 256

_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
}


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one call of a model may hold; the largest sizes of a TensorRT profile."""

    batch: int
    prompts: int | None
    """Features on one embedding; None for a model that takes none."""


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    graph: str
    """The bundle's file."""
    interface: Interface
    limits: BatchLimits
    cpu_limits: BatchLimits
    warm_prompts: tuple[int, ...] = ()
    """Numbers of prompts to warm up with."""


def write_repository(bundle: Bundle, out: Path) -> None:
    """Write folders, configurations and graphs for a bundle. Plans and other files there stay."""
    manifest = bundle.manifest
    for model in _models(manifest.image, manifest.language.feature):
        folder = out / model.name
        _write(folder, _configurations(model, manifest.graph_digest(model.graph)))
        external = model.graph + EXTERNAL
        if external in manifest.files:  # under the name that the graph refers to
            hardlink.place(bundle.path(external), folder / VERSION / external)
        hardlink.place(bundle.path(model.graph), folder / VERSION / GRAPH)


def write_published(out: Path) -> None:
    """Write the configurations for the published model's sizes, without graphs."""
    for name, text in published().items():
        _write(out, {name: text})
    for model in _models(PUBLISHED, FEATURE):
        (out / model.name / VERSION).mkdir(exist_ok=True)
        (out / model.name / VERSION / ".gitkeep").touch()  # Triton wants the folder; git keeps none that is empty


def published() -> dict[str, str]:
    """Text of every configuration for the published model's sizes, by path in the repository."""
    return {
        f"{model.name}/{name}": text
        for model in _models(PUBLISHED, FEATURE)
        for name, text in _configurations(model, digest=None).items()
    }


def read_limits(config: Path) -> BatchLimits:
    """The limits that a ``config.pbtxt`` states.

    Raises:
        SourceError: it cannot be read, or states none.
    """
    found = _read(config)
    if found.max_batch_size < 1:
        raise SourceError(f"{config}: no max_batch_size; write it with `python -m exporters repository`")
    prompts = _parameter(found, "max_prompts")
    if prompts is not None and not prompts.isdecimal():
        raise SourceError(
            f"{config}: max_prompts must be a number; write it with `python -m exporters repository`"
        )
    return BatchLimits(found.max_batch_size, None if prompts is None else int(prompts))


def read_digest(config: Path) -> str:
    """SHA-256 of the graph that a ``config.pbtxt`` is for.

    Raises:
        SourceError: it cannot be read, or states none (that of the committed repository does not).
    """
    digest = _parameter(_read(config), "graph_sha256")
    if digest is None or not re.fullmatch("[0-9a-f]{64}", digest):
        raise SourceError(f"{config}: no graph_sha256; write it with `python -m exporters repository --bundle`")
    return digest


def _read(config: Path) -> model_config_pb2.ModelConfig:
    try:
        return text_format.Parse(config.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise SourceError(f"{config}: {error}; write it with `python -m exporters repository`") from error


def _parameter(config: model_config_pb2.ModelConfig, name: str) -> str | None:
    return config.parameters[name].string_value if name in config.parameters else None


def _models(image: ImageSpec, feature: int) -> tuple[_Model, _Model]:
    """Encoder: a ViT's time grows with its batch, so it batches little; one at a time on a CPU, whose memory its
    attention would take (0.8 GB an image at 1024). Decoder: small and for every round, so it batches. Both are
    such that their activations fit a GPU beside vLLM (docs/vision.md).
    """
    encoder, decoder = encoder_interface(image), decoder_interface(image, feature)
    masks = BatchLimits(8, 4)
    return (
        _Model("image_encoder", IMAGE_ENCODER, encoder, BatchLimits(2, None), BatchLimits(1, None)),
        _Model("mask_decoder", MASK_DECODER, decoder, masks, masks, (1, 4)),
    )


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _configurations(model: _Model, digest: str | None) -> dict[str, str]:
    """``digest``: SHA-256 of the graph, so that the orchestrator can tell which one is served."""
    return {CONFIG: _text(_gpu(model, digest)), CPU_CONFIG: _text(_cpu(model, digest))}


def _text(lines: Iterator[str]) -> str:
    heading = (
        "# Written by `python -m exporters repository`: change "
        "exporters/triton_repository.py, then write it again.\n"
    )
    return heading + "\n".join(lines) + "\n"


def _gpu(model: _Model, digest: str | None) -> Iterator[str]:
    """A TensorRT plan on whatever GPU there is: no instance group, so Triton places one instance on each."""
    yield f'name: "{model.name}"'
    yield 'platform: "tensorrt_plan"'
    yield f'default_model_filename: "{PLAN}"'
    for capability in CAPABILITIES:
        file = f"model_sm{capability.replace('.', '')}.plan"
        yield f'cc_model_filenames {{ key: "{capability}" value: "{file}" }}'
    yield from _body(model, model.limits, digest)


def _cpu(model: _Model, digest: str | None) -> Iterator[str]:
    """The same tensors and queues with ONNX Runtime on a CPU."""
    yield f'name: "{model.name}"'
    yield 'backend: "onnxruntime"'
    yield f'default_model_filename: "{GRAPH}"'
    yield "instance_group { kind: KIND_CPU count: 1 }"
    yield from _body(model, model.cpu_limits, digest)


def _body(model: _Model, limits: BatchLimits, digest: str | None) -> Iterator[str]:
    yield f"max_batch_size: {limits.batch}"
    for spec in model.interface.inputs:
        yield f"input {_tensor(spec)}"
    for spec in model.interface.outputs:
        yield f"output {_tensor(spec)}"
    yield _QUEUE
    if limits.prompts is not None:
        yield "# Most features on one embedding; the orchestrator divides larger waves."
        yield f'parameters {{ key: "max_prompts" value {{ string_value: "{limits.prompts}" }} }}'
    if digest is not None:
        yield "# SHA-256 of the graph: the orchestrator refuses a server of another one."
        yield f'parameters {{ key: "graph_sha256" value {{ string_value: "{digest}" }} }}'
    yield from _warm_up(model, limits)


_QUEUE = """\
dynamic_batching {
  # No delay: a request waits for a busy instance alone, and batches form while it is busy.
  max_queue_delay_microseconds: 0
  # The priority of the request: 1 is INTERACTIVE, 2 is BATCH.
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 10000000
    allow_timeout_override: true
    max_queue_size: 64
  }
  priority_queue_policy {
    key: 2
    value {
      timeout_action: REJECT
      default_timeout_microseconds: 60000000
      allow_timeout_override: true
      max_queue_size: 64
    }
  }
}"""


def _tensor(spec: TensorSpec) -> str:
    return f'{{ name: "{spec.name}" data_type: {_TYPES[spec.element]} dims: [ {_dims(spec.shape[1:])} ] }}'


def _dims(shape: tuple[int | None, ...]) -> str:
    return ", ".join(str(-1 if length is None else length) for length in shape)


def _warm_up(model: _Model, limits: BatchLimits) -> Iterator[str]:
    """One alone, and the largest batch: what a first request would pay, kernels and workspace, is paid before."""
    for prompts in model.warm_prompts or (1,):
        for batch in sorted({1, limits.batch} if prompts == 1 else {1}):
            yield f'model_warmup {{\n  name: "batch {batch}, prompts {prompts}"\n  batch_size: {batch}'
            for spec in model.interface.inputs:
                dims = _dims(tuple(prompts if length is None else length for length in spec.shape[1:]))
                kind = f"data_type: {_TYPES[spec.element]} dims: [ {dims} ] zero_data: true"
                yield f'  inputs {{ key: "{spec.name}" value {{ {kind} }} }}'
            yield "}"
