"""TensorRT plans on disk: each with a JSON sidecar: what it was built from, with what, for which GPU.

Knows names, sidecars, and when a plan may be served. A plan is bound to one graph, one TensorRT version and one
GPU architecture; Triton finds out when it loads or answers, this module before. Does not know how a plan is built.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from exporters import hardlink
from exporters.errors import SourceError
from exporters.tensorrt.compiler import Runtime
from exporters.triton_repository import CAPABILITIES, CONFIG, PLAN, VERSION, read_digest, read_limits
from serving.bundle import Digest, Positive, file_digest

SIDECAR = ".json"
"""After the plan's whole name."""
_MOST_BYTES = 1 << 20
"""Of a sidecar."""

Lengths = tuple[Positive, ...]


class PlanError(SourceError):
    """A plan must not be served as it is; the message says what differs. Build it again."""


class Recipe(BaseModel):
    """What a plan is built from, with and for: all that is known before. Digests are SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
    """Its name in the repository."""
    graph: Digest
    bundle: Digest
    precision: Literal["fp32", "fp16", "bf16"]
    runtime: Runtime
    version: Annotated[str, Field(pattern=r"^[0-9][0-9a-z.+]{0,31}$")]
    """Of the runtime."""
    capability: Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]
    gpu: str | None = None
    driver: str | None = None
    batch: Positive
    prompts: Positive | None
    """The repository's limits that the profile reaches."""
    profile: dict[str, tuple[Lengths, Lengths, Lengths]]
    """Least, usual and largest shape of each input."""
    workspace: int | None = None
    """Bytes of scratch memory that the build was limited to."""
    gate: dict[str, object] | None = None
    """``precision.json`` of the bundle; None for one that was never compared."""

    @property
    def name(self) -> str:
        """Of the plan's file; the same for all plans that may replace each other."""
        made_by = ("trt" if self.runtime == "tensorrt" else "rtx") + self.version
        return f"{self.model}-{self.graph[:12]}-{self.precision}-{made_by}-{_sm(self.capability)}.plan"


class Sidecar(Recipe):
    """What lies beside a plan."""

    plan: Digest
    activation: NonNegativeInt | None
    """Bytes of GPU memory that one context takes for activations; None where no builder said so."""

    def follows(self, recipe: Recipe) -> bool:
        """Whether a build would make the same again. Driver and GPU of one architecture may differ."""
        apart = {"plan", "activation", "gpu", "driver"}
        return self.model_dump(exclude=apart) == recipe.model_dump(exclude=apart)


@dataclass(frozen=True, slots=True)
class Host:
    """What will run a plan: the server's TensorRT, which need not be the one installed here, and its GPU."""

    runtime: Runtime
    version: str
    capability: str


def write(plan: bytes, recipe: Recipe, activation: int | None, directory: Path) -> Path:
    """The plan and then its sidecar: without the latter a plan is never served. Returns the plan's path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / recipe.name
    digest = hashlib.sha256(plan).hexdigest()
    sidecar = Sidecar(plan=digest, activation=activation, **recipe.model_dump())
    beside(path).unlink(missing_ok=True)
    _replace(path, plan)
    _replace(beside(path), (sidecar.model_dump_json(indent=2) + "\n").encode())
    return path


def beside(plan: Path) -> Path:
    """Where a plan's sidecar is."""
    return plan.with_name(plan.name + SIDECAR)


def read(plan: Path) -> Sidecar:
    """The sidecar of a plan.

    Raises:
        PlanError: there is none, or it is not one.
    """
    path = beside(plan)
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise PlanError(f"{plan.name} has no sidecar ({path.name}: {error.strerror}): build it again") from error
    if len(text) > _MOST_BYTES:
        raise PlanError(f"{path.name} is larger than {_MOST_BYTES} bytes: not a plan's sidecar")
    try:
        return Sidecar.model_validate_json(text)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, e["loc"])) or e["type"] for e in error.errors()}))
        raise PlanError(f"{path.name} is not a plan's sidecar ({fields}): build the plan again") from error


def check(plan: Path, graph: str, host: Host) -> Sidecar:
    """Whether a plan may serve a graph on a host.

    Args:
        graph: SHA-256 of the graph that it must have been built from.

    Raises:
        PlanError: it may not; the message names every difference.
    """
    sidecar = read(plan)
    asked = {"graph": graph, "runtime": host.runtime, "version": host.version, "capability": host.capability}
    words = {
        "graph": "graph",
        "runtime": "runtime",
        "version": "TensorRT version",
        "capability": "GPU architecture",
    }
    differ = [
        f"{words[field]} {_short(getattr(sidecar, field))}, not {_short(value)}"
        for field, value in asked.items()
        if getattr(sidecar, field) != value
    ]
    if not differ and file_digest(plan) != sidecar.plan:  # last: plans are large
        differ.append("other bytes than its sidecar says")
    if differ:
        raise PlanError(f"{plan.name} was built for another place: {'; '.join(differ)}. Build it again here.")
    return sidecar


def place(plan: Path, repository: Path, host: Host) -> Path:
    """Put a plan and its sidecar where Triton will look for them, once it is checked against the repository.

    Raises:
        PlanError: see ``check``; or the plan takes less than the configuration allows.
        SourceError: the repository has no such model.
    """
    sidecar = _fits(plan, repository / read(plan).model, host)
    at = repository / sidecar.model / VERSION / served_name(host.capability)
    beside(at).unlink(missing_ok=True)
    hardlink.place(plan, at)
    hardlink.place(beside(plan), beside(at))
    return at


def check_repository(repository: Path, host: Host) -> Iterator[Path]:
    """The plans that Triton will load on ``host``, each checked as it is yielded.

    Raises:
        PlanError: as ``place`` does, or one is missing.
        SourceError: there is no model.
    """
    models = sorted(path.parent for path in repository.glob(f"*/{CONFIG}"))
    if not models:
        raise SourceError(f"{repository} holds no model: write it with `python -m exporters repository`")
    for model in models:
        plan = model / VERSION / served_name(host.capability)
        if not plan.is_file():
            raise PlanError(f"{model.name}: no {plan.name}; build it with `python -m exporters tensorrt`")
        _fits(plan, model, host)
        yield plan


def served_name(capability: str) -> str:
    """What ``config.pbtxt`` calls the plan of an architecture."""
    return f"model_{_sm(capability)}.plan" if capability in CAPABILITIES else PLAN


def _fits(plan: Path, model: Path, host: Host) -> Sidecar:
    config = model / CONFIG
    sidecar = check(plan, read_digest(config), host)
    limits = read_limits(config)
    if sidecar.model != model.name:
        raise PlanError(f"{plan.name} is a plan of {sidecar.model}, not of {model.name}")
    if sidecar.batch < limits.batch or (sidecar.prompts or 0) < (limits.prompts or 0):
        raise PlanError(
            f"{plan.name} takes batches of {sidecar.batch} and {sidecar.prompts} prompts; "
            f"{model.name}/{CONFIG} allows more: build it again"
        )
    return sidecar


def _sm(capability: str) -> str:
    return f"sm{capability.replace('.', '')}"


def _short(value: str) -> str:
    """A digest's beginning; anything else as it is."""
    return value[:12]


def _replace(path: Path, content: bytes) -> None:
    """At once: a reader sees the old file or the new one."""
    made = path.with_name(path.name + ".tmp")
    made.write_bytes(content)
    made.replace(path)
