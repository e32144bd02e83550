"""Images and containers by Debian's buildah: no daemon, no registry needed.

Knows buildah's command line, and where it keeps things. Does not know what is in an image.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHROOT = ("--isolation", "chroot")
"""Works within a container, too, where namespaces may not be made. The network is the host's."""
_OPEN_POLICY = {"default": [{"type": "insecureAcceptAnything"}]}
"""Debian's buildah has no policy on signatures. What is read here was built here, or is named by a tag."""


class BuildahError(Exception):
    """A command failed; its last words are in the message."""


@dataclass(frozen=True, slots=True)
class Config:
    """What an image says of how it is run."""

    user: str
    entrypoint: Sequence[str]
    health_command: Sequence[str]
    labels: Mapping[str, str]


class Buildah:
    """Images and containers under one directory of ours."""

    def __init__(self, directory: Path) -> None:
        """Keep everything under ``directory``."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory.resolve()
        self._policy = self._directory / "policy.json"
        self._policy.write_text(json.dumps(_OPEN_POLICY))

    def command(self, verb: str, *arguments: str) -> list[str]:
        """A whole command line."""
        storage = ["--root", f"{self._directory}/storage", "--runroot", f"{self._directory}/run"]
        return ["buildah", *storage, "--storage-driver", "vfs", verb, *arguments]

    def __call__(self, verb: str, *arguments: str) -> str:
        """What the command prints.

        Raises:
            BuildahError: it failed.
        """
        done = subprocess.run(self.command(verb, *arguments), capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise BuildahError(f"buildah {verb}: {_last_line(done.stderr)}")
        return done.stdout.strip()

    def import_root(self, archive: Path, name: str) -> None:
        """Make an image of one layer: a root file system."""
        container = self("from", "scratch")
        try:
            self("add", "--quiet", container, str(archive), "/")
            self("commit", "--quiet", "--signature-policy", str(self._policy), container, name)
        finally:
            self("rm", container)

    def build(
        self, target: str, name: str, arguments: Mapping[str, str], mounts: Sequence[str], log: Path
    ) -> None:
        """Build a target of the Dockerfile in the working directory; the output goes to ``log``."""
        flags = [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
        flags += [part for mount in mounts for part in ("--volume", mount)]
        # Docker's form: the other one has no health checks.
        how = (*CHROOT, "--format", "docker", "--signature-policy", str(self._policy))
        command = self.command("bud", *how, "--target", target, "--tag", name, *flags, ".")
        with log.open("w") as stream:
            code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode  # noqa: S603
        if code:
            raise BuildahError(f"the build of {target} failed: {_last_line(log.read_text())} ({log})")

    def exists(self, name: str) -> bool:
        return bool(self("images", "--quiet", "--filter", f"reference={name}"))

    def within_reach(self, name: str) -> str:
        """Empty when a registry has the image, else why it cannot be had."""
        try:
            self("manifest", "inspect", name)
        except BuildahError as error:
            return str(error)
        return ""

    def size(self, name: str) -> str:
        """As people write it."""
        return str(json.loads(self("images", "--json", name))[0]["size"])

    def config(self, name: str) -> Config:
        told = json.loads(self("inspect", "--type", "image", name))["Docker"]["config"]
        test = told.get("Healthcheck", {}).get("Test", [])
        return Config(told.get("User", ""), told["Entrypoint"], test[1:], told.get("Labels", {}))

    @contextmanager
    def container(self, name: str) -> Iterator[str]:
        """A container of the image, until the block ends."""
        container = self("from", "--signature-policy", str(self._policy), name)
        try:
            yield container
        finally:
            self("rm", container)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # The last two tell that something within failed, not what.
    told = [line for line in lines if not line.startswith(("subprocess exited", "Error: exit status"))]
    return (told or lines or ["it said nothing"])[-1]
