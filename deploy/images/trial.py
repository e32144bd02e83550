"""An image of the orchestrator, tried as an operator would run it, and asked a dialogue through the client.

Knows what the image promises: a user without rights, a refusal to listen openly, a health check, a root file
system that may be read-only, a drain on SIGTERM. Does not know how the image was built.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.images.buildah import CHROOT, Buildah, BuildahError, Config
from loadtest.server_process import free_port
from mediround import Client, RoundResult

READY_SECONDS = 120.0
STOP_SECONDS = 30.0
FORBIDDEN = ("torch", "vllm", "pip", "triton")
"""Distributions that have no place in an orchestrator's environment."""
QUESTIONS = (("Segment the left thalamus.", None), ("Segment the same structure on the other side.", 0))
_DISTRIBUTIONS = """
from importlib.metadata import distributions
print(*sorted(f"{found.name}=={found.version}" for found in distributions()))
"""
_MARK = "/tmp/mediround-trial"  # noqa: S108  # in the container, whose /tmp is ours
_FIND_WRITTEN = f"find / -xdev -newer {_MARK} -type f -not -path '/proc/*' -not -path '/sys/*' 2>/dev/null || true"
_ENGINES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/.containerenv", _MARK)
"""What buildah, and this trial, put there."""


class TrialError(Exception):
    """The image does not keep a promise; the message says which."""


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    distributions: Sequence[str]
    results: Sequence[RoundResult]
    written: Sequence[str]
    """Files that running it left in the container's root file system."""


class Trial:
    """One container of the image."""

    def __init__(self, buildah: Buildah, container: str, config: Config, bundle: Path, log: Path) -> None:
        """``bundle`` is mounted; the server writes to ``log``."""
        self._buildah, self._container, self._config = buildah, container, config
        self._bundle, self._log = bundle.resolve(), log
        self._address = f"127.0.0.1:{free_port()}"

    def run(self, picture: Path) -> TrialOutcome:
        """All of it.

        Raises:
            TrialError: a promise is not kept.
            BuildahError: a command cannot be run in the container.
        """
        self._has_no_rights()
        distributions = self._in("/opt/mediround/bin/python", "-c", _DISTRIBUTIONS).split()
        if found := [d for d in distributions if d.partition("==")[0] in FORBIDDEN]:
            raise TrialError(f"the image holds {', '.join(found)}")
        self._refuses_to_listen_openly()
        self._in("touch", _MARK)
        with self._log.open("w") as stream:
            serving = subprocess.Popen(self._serve(), stdout=stream, stderr=subprocess.STDOUT)  # noqa: S603
            try:
                self._becomes_healthy(serving)
                results = self._dialogue(picture)
            finally:
                code = _stop(serving)
        if code:
            raise TrialError(f"told to stop, the server ended with {code}: {self._log}")
        written = [path for path in self._in("sh", "-c", _FIND_WRITTEN).splitlines() if path not in _ENGINES]
        return TrialOutcome(distributions, results, written)

    def _in(self, *command: str) -> str:
        environment = ("--env", f"MEDIROUND_HEALTH_ADDRESS={self._address}")
        return self._buildah("run", *CHROOT, *environment, self._container, "--", *command)

    def _serve(self) -> list[str]:
        environment = ("--env", f"MEDIROUND_LISTEN={self._address}")
        mount = ("--volume", f"{self._bundle}:/bundle:ro")
        return self._buildah.command(
            "run", *CHROOT, *mount, *environment, self._container, "--", *self._config.entrypoint
        )

    def _has_no_rights(self) -> None:
        user = self._in("id", "-u")
        if user == "0":
            raise TrialError("the image runs as root")

    def _refuses_to_listen_openly(self) -> None:
        try:
            self._in(*self._config.entrypoint)
        except BuildahError as refusal:
            if "--allow-insecure-bind" in str(refusal):
                return
            raise TrialError(f"without settings it should refuse to listen, and says: {refusal}") from refusal
        raise TrialError("without settings it listens to everyone in plain text")

    def _becomes_healthy(self, serving: subprocess.Popen[bytes]) -> None:
        """By the image's own health check."""
        deadline = time.monotonic() + READY_SECONDS
        said = "nothing"
        while time.monotonic() < deadline and serving.poll() is None:
            try:
                self._in(*self._config.health_command)
            except BuildahError as unhealthy:
                said = str(unhealthy)
                time.sleep(0.5)
            else:
                return
        raise TrialError(f"it did not become healthy ({said}): {self._log.read_text()[-1000:]}")

    def _dialogue(self, picture: Path) -> list[RoundResult]:
        results: list[RoundResult] = []
        with Client(self._address) as client, client.open(picture) as session:
            for question, refer_to in QUESTIONS:
                results.append(session.ask(question, refer_to=refer_to))
                if not results[-1].area:
                    raise TrialError(f"round {len(results)} has no mask; its answer: {results[-1].answer}")
        return results


def _stop(serving: subprocess.Popen[bytes]) -> int:
    """As a container's engine does: SIGTERM to the server itself, below buildah's own processes."""
    if (ended := serving.poll()) is not None:
        return ended
    _signal(_line(serving.pid)[-1], signal.SIGTERM)
    try:
        return serving.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in reversed(_line(serving.pid)):
            _signal(pid, signal.SIGKILL)
        serving.wait()
        raise TrialError(f"told to stop, the server went on for {STOP_SECONDS:g} s") from None


def _signal(pid: int, number: int) -> None:
    """If it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _line(pid: int) -> list[int]:
    """A process, its first child, that one's, and so on."""
    line = [pid]
    while children := _children(line[-1]):
        line.append(children[0])
    return line


def _children(pid: int) -> list[int]:
    """Of every thread of a process; none when it is gone. Linux only."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, path.read_text().split())
    return found
