"""``make images``: build the targets that are asked for, try the orchestrator, and say what could not be had.

Status 0: what was asked for was built, and the trial passed. 1: something was not. 3: buildah or mmdebstrap is
missing here.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from deploy.images.base import ensure_base
from deploy.images.buildah import Buildah, BuildahError
from deploy.images.pip_settings import pip_mounts
from deploy.images.trial import Trial, TrialError, TrialOutcome
from mediround import MediRoundError, __version__

DOCKERFILE = Path("Dockerfile")
DIRECTORY = Path("build/images")
TARGETS = ("orchestrator", "annotate", "exporter", "language", "vision")
ORCHESTRATOR = "orchestrator"
OWN_BASE = {"language": "LANGUAGE_BASE_IMAGE", "vision": "VISION_BASE_IMAGE"}
"""Targets that stand on somebody else's image, and the argument that names it."""
FAILED, MISSING = 1, 3
FAULTS = (BuildahError, TrialError, MediRoundError, subprocess.CalledProcessError)
"""Of a target, and no reason to leave the others."""


def default_of(argument: str) -> str:
    """What the Dockerfile gives an argument."""
    found = re.search(rf"^ARG {argument}=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(f"{DOCKERFILE} gives {argument} no value")
    return found[1]


def build_arguments(given: argparse.Namespace, buildah: Buildah) -> dict[str, str]:
    """For every target."""
    git = ["git", "rev-parse", "HEAD"]
    revision = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    arguments = {
        "BASE_IMAGE": given.base_image or ensure_base(buildah, DIRECTORY),
        "VERSION": version("mediround-serving"),
        "REVISION": revision or "unknown",
    }
    return arguments | dict(word.split("=", 1) for word in given.build_arg)


def image(target: str) -> str:
    return f"localhost/mediround-{target}:{version('mediround-serving')}"


def build(buildah: Buildah, target: str, arguments: dict[str, str]) -> None:
    """Raises BuildahError."""
    began = time.monotonic()
    buildah.build(target, image(target), arguments, pip_mounts(DIRECTORY), DIRECTORY / f"{target}.log")
    print(f"== built {image(target)}: {buildah.size(image(target))}, {time.monotonic() - began:.0f} s")


def try_orchestrator(buildah: Buildah, bundle: Path, picture: Path) -> None:
    """Raises TrialError, BuildahError or MediRoundError."""
    name = image(ORCHESTRATOR)
    with buildah.container(name) as container:
        trial = Trial(buildah, container, buildah.config(name), bundle, DIRECTORY / "orchestrator-run.log")
        report(trial.run(picture))


def report(outcome: TrialOutcome) -> None:
    count = len(outcome.distributions)
    print(f"== it ran, as a user without rights; its environment has {count} packages, no torch and no pip:")
    print("   " + " ".join(outcome.distributions))
    for result in outcome.results:
        milliseconds = result.timings.total * 1000
        print(f"   round {result.index}: {result.answer} {result.area} pixels, {milliseconds:.0f} ms")
    print(f"   files it wrote: {', '.join(outcome.written) or 'none, so its root file system may be read-only'}")
    print("   told to stop, it drained and ended with 0")


def report_others(buildah: Buildah, asked: list[str]) -> None:
    """Which targets were not built, and why."""
    for target in TARGETS:
        if target in asked:
            continue
        why = ""
        if target in OWN_BASE:
            base = default_of(OWN_BASE[target])
            refusal = buildah.within_reach(base)
            why = f"its base {base} cannot be had here: {refusal}" if refusal else ""
        print(f"== NOT built: {target}: {why or f'not asked for; make images IMAGES={target}'}")


def make(buildah: Buildah, given: argparse.Namespace) -> bool:
    """Each target that is asked for, whatever becomes of the others; whether all succeeded."""
    try:
        arguments = build_arguments(given, buildah)
    except FAULTS as fault:
        print(f"== FAILED: {', '.join(given.targets)}: {fault}", file=sys.stderr)
        return False
    failed = False
    for target in given.targets:
        try:
            build(buildah, target, arguments)
            if target == ORCHESTRATOR:
                try_orchestrator(buildah, given.bundle, given.picture)
        except FAULTS as fault:
            print(f"== FAILED: {target}: {fault}", file=sys.stderr)
            failed = True
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.images", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("targets", nargs="+", choices=TARGETS)
    parser.add_argument("--base-image", help="an image with Python; made of Debian's packages where none is named")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="of the Dockerfile")
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"), help="for the trial")
    parser.add_argument("--picture", type=Path, default=Path("models/mediround-lite/slices/slice_z076.png"))
    given = parser.parse_args()
    if lacking := [tool for tool in ("buildah", "mmdebstrap") if not shutil.which(tool)]:
        print(f"NOT built: {', '.join(lacking)} not found; they are Debian packages", file=sys.stderr)
        return MISSING
    buildah = Buildah(DIRECTORY)
    made = make(buildah, given)
    report_others(buildah, given.targets)
    return 0 if made else FAILED


if __name__ == "__main__":
    sys.exit(main())
