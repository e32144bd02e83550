"""A bundle's image half → TensorRT plans in Triton's model repository.

Knows which shapes a plan must take (the repository's limits), which plans exist already, and what their sidecars
say. Does not know TensorRT's API (``exporters.tensorrt.compiler``) nor what makes a plan servable
(``exporters.tensorrt.plans``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from exporters.errors import UnsupportedSourceError
from exporters.onnx.tensorrt_attention import taken_form
from exporters.progress import Progress
from exporters.tensorrt import plans
from exporters.tensorrt.compiler import BuildError, BuildRequest, Built, Compiler, EngineUnavailableError, Range
from exporters.tensorrt.gpu import Gpu
from exporters.triton_repository import CONFIG, BatchLimits, read_digest, read_limits
from exporters.variant import GRAPHS, PRECISION_REPORT
from serving.bundle import IMAGE_ENCODER, Bundle, Manifest
from serving.runtime.graph import Interface
from serving.vision.interface import decoder_interface, encoder_interface

_USUAL_BATCH = 4
"""Of the mask decoder under load. An encoder's batch is usually one: a new image."""


@dataclass(frozen=True, slots=True)
class BuildPaths:
    repository: Path
    """Written by ``exporters repository`` for the same bundle."""
    plans: Path
    """Where plans and timing caches are kept."""


@dataclass(frozen=True, slots=True)
class Builder:
    """What builds plans, and for which GPU."""

    compiler: Compiler
    gpu: Gpu
    workspace: int | None = None
    """Most bytes of scratch memory for one layer; all of the GPU's by default."""

    @property
    def host(self) -> plans.Host:
        return plans.Host(self.compiler.runtime, self.compiler.version, self.gpu.capability)


def build_plans(bundle: Bundle, places: BuildPaths, workshop: Builder, progress: Progress) -> list[Path]:
    """Build what is not there yet, and put the plans where Triton looks for them.

    Plans of ``tensorrt_rtx`` are kept and not put there: Triton cannot load them.

    Returns:
        The plans, in ``places.plans``.

    Raises:
        SourceError: the repository is another bundle's; TensorRT refuses a graph; a plan does not load afterwards.
    """
    found = []
    for graph in GRAPHS:
        model, digest = graph.removesuffix(".onnx"), bundle.manifest.graph_digest(graph)
        config = places.repository / model / CONFIG
        if read_digest(config) != digest:
            raise UnsupportedSourceError(
                f"{config} is another bundle's: write it with `python -m exporters repository --bundle "
                f"{bundle.directory}`"
            )
        recipe = _recipe(bundle, graph, workshop, read_limits(config))
        plan = places.plans / recipe.name
        if _kept(plan, recipe, workshop.host):
            progress(f"kept {plan.name}")
        else:
            progress(f"building {plan.name}")
            began = time.monotonic()
            built = _build(bundle.path(graph), recipe, places.plans, workshop.compiler)
            progress(f"built in {time.monotonic() - began:.1f} s, {_sizes(built)}")
            for warning in built.warnings:
                progress(f"TensorRT warns: {warning}")
            plans.write(built.plan, recipe, built.activation, places.plans)
        found.append(plan)
        if not workshop.compiler.offline:
            progress(f"placed {plans.place(plan, places.repository, workshop.host)}")
    return found


def require_release(compiler: Compiler, server: str) -> None:
    """Refuse to build plans that the server cannot load. TensorRT-RTX's are for no server.

    Raises:
        EngineUnavailableError: the message says what to install.
    """
    if not compiler.offline and compiler.version != server:
        raise EngineUnavailableError(
            f"TensorRT {compiler.version} is here, and the server has {server}, which loads its own plans alone: "
            f"install tensorrt-cu13=={server}, or name the server's with --server-tensorrt (docs/vision.md)"
        )


def check_plans(repository: Path, host: plans.Host, compiler: Compiler | None, progress: Progress) -> list[Path]:
    """Refuse a repository whose plans ``host`` should not serve, before Triton starts. Returns its plans.

    Each is also loaded, where the TensorRT here is the server's. None: there is none here.

    Raises:
        SourceError: the message says which plan, and what differs.
    """
    found = []
    for plan in plans.check_repository(repository, host):
        if compiler is not None and compiler.version == host.version:
            _load(compiler, plan.read_bytes(), plan.name)
            progress(f"{plan} is for this host")
        else:
            here = compiler.version if compiler else "none"
            progress(f"{plan} is for this host by its sidecar; not loaded, for TensorRT here is {here}")
        found.append(plan)
    return found


def profile_for(manifest: Manifest, graph: str, limits: BatchLimits) -> Mapping[str, Range]:
    """All shapes that a model's configuration lets through, tuned for what is usual there."""
    if graph == IMAGE_ENCODER:
        return _profile_of(encoder_interface(manifest.image), limits, 1)
    return _profile_of(decoder_interface(manifest.image, manifest.language.feature), limits, _USUAL_BATCH)


def _profile_of(interface: Interface, limits: BatchLimits, usual_batch: int) -> Mapping[str, Range]:
    """Batches first, then prompts. ``usual_batch``: what the plan is tuned for, if allowed; with one prompt."""
    usual = min(usual_batch, limits.batch)

    def shape(open_shape: tuple[int | None, ...], *lengths: int | None) -> tuple[int, ...]:
        waiting = iter(lengths)
        return tuple(length or next(waiting) or 1 for length in open_shape)

    return {
        spec.name: Range(
            shape(spec.shape, 1, 1), shape(spec.shape, usual, 1), shape(spec.shape, limits.batch, limits.prompts)
        )
        for spec in interface.inputs
    }


def _recipe(bundle: Bundle, graph: str, workshop: Builder, limits: BatchLimits) -> plans.Recipe:
    manifest, host, gpu = bundle.manifest, workshop.host, workshop.gpu
    report = bundle.path(PRECISION_REPORT)
    profile = profile_for(manifest, graph, limits)
    return plans.Recipe(
        model=graph.removesuffix(".onnx"),
        graph=manifest.graph_digest(graph),
        bundle=bundle.digest,
        precision=manifest.image.precision,
        runtime=host.runtime,
        version=host.version,
        capability=host.capability,
        gpu=gpu.name,
        driver=gpu.driver,
        batch=limits.batch,
        prompts=limits.prompts,
        profile={name: (shapes.least, shapes.usual, shapes.most) for name, shapes in profile.items()},
        workspace=workshop.workspace,
        gate=json.loads(report.read_bytes()) if PRECISION_REPORT in manifest.files else None,
    )


def _kept(plan: Path, recipe: plans.Recipe, host: plans.Host) -> bool:
    """Whether an earlier run built it."""
    try:
        return plans.check(plan, recipe.graph, host).follows(recipe)
    except (plans.PlanError, OSError):
        return False


def _build(graph: Path, recipe: plans.Recipe, directory: Path, compiler: Compiler) -> Built:
    """A plan that loads. The timing cache stays for the next build, one for each version and architecture."""
    cache = directory / f"timings-{recipe.version}-{recipe.capability}.cache"
    profile = {name: Range(*shapes) for name, shapes in recipe.profile.items()}
    with TemporaryDirectory() as work:
        request = BuildRequest(taken_form(graph, Path(work)), profile, recipe.capability, recipe.workspace)
        built = compiler.build(request, cache.read_bytes() if cache.is_file() else None)
    if not compiler.offline:
        built = replace(built, activation=_load(compiler, built.plan, recipe.name))
    if built.timings is not None:
        directory.mkdir(parents=True, exist_ok=True)
        cache.write_bytes(built.timings)
    return built


def _load(compiler: Compiler, plan: bytes, name: str) -> int:
    """Bytes of its activations."""
    activation = compiler.load(plan)
    if activation is None:
        raise BuildError(f"{name} does not load here: {compiler.complaints or 'TensorRT does not say why'}")
    return activation


def _sizes(built: Built) -> str:
    activation = "unknown" if built.activation is None else f"{built.activation / 1e6:.1f} MB"
    return f"{len(built.plan) / 1e6:.1f} MB, activations {activation}"
