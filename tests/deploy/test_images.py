"""``make images``, without buildah: what is built, tried and reported when something goes wrong."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.images import __main__ as program
from deploy.images import base, trial
from deploy.images.buildah import Buildah, BuildahError, Config
from deploy.images.trial import Trial, TrialError

CONFIG = Config("10001:10001", ["serve"], ["probe"], {})
PICTURE = Path("models/mediround-lite/slices/slice_z076.png")


class Scripted(Buildah):
    """Builds nothing. Builds of ``broken`` targets fail; a container's server is ``server``."""

    def __init__(self, directory: Path, *broken: str, server: tuple[str, ...] = ("true",)) -> None:
        self.broken, self.server = broken, server
        self.built: list[str] = []
        self.imported: list[str] = []

    def command(self, verb: str, *arguments: str) -> list[str]:
        return list(self.server)

    def __call__(self, verb: str, *arguments: str) -> str:
        """An image that keeps every promise until it is to serve."""
        command = arguments[arguments.index("--") + 1 :]
        if command == ("id", "-u"):
            return "10001"
        if command == ("serve",):
            raise BuildahError("needs --allow-insecure-bind")
        if command == ("probe",):
            raise BuildahError("nothing listens")
        return ""

    def build(self, target: str, *_: object) -> None:
        self.built.append(target)
        if target in self.broken:
            raise BuildahError(f"the build of {target} failed")

    def exists(self, name: str) -> bool:
        return name in self.imported

    def import_root(self, archive: Path, name: str) -> None:
        self.imported.append(name)

    def within_reach(self, name: str) -> str:
        return "no such host"

    def size(self, name: str) -> str:
        return "1 MB"

    def config(self, name: str) -> Config:
        return CONFIG

    @contextmanager
    def container(self, name: str) -> Iterator[str]:
        yield "container"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``main`` of a buildah and targets."""
    monkeypatch.setattr(program, "DIRECTORY", tmp_path)
    monkeypatch.setattr(program, "pip_mounts", lambda directory: [])
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")

    def main(buildah: Buildah, *targets: str) -> int:
        monkeypatch.setattr(program, "Buildah", lambda directory: buildah)
        monkeypatch.setattr("sys.argv", ["images", *targets, "--base-image", "debian"])
        return program.main()

    return main


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The pictures with which a trial was made; each passes."""
    tried: list[Path] = []

    def tries(self: Trial, picture: Path) -> trial.TrialOutcome:
        tried.append(picture)
        return trial.TrialOutcome(["numpy==2"], [], [])

    monkeypatch.setattr(Trial, "run", tries)
    return tried


def test_a_target_that_fails_leaves_the_others_be(
    run: Callable[..., int], passing: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buildah = Scripted(tmp_path, "exporter")
    assert run(buildah, "exporter", "orchestrator") == program.FAILED
    assert buildah.built == ["exporter", "orchestrator"]
    assert passing == [PICTURE]
    said = capsys.readouterr()
    assert "FAILED: exporter: the build of exporter failed" in said.err
    assert "it ran" in said.out
    assert "NOT built: language: its base docker.io/vllm/vllm-openai" in said.out
    assert "NOT built: vision: its base" in said.out
    assert "NOT built: exporter" not in said.out


def test_a_trial_that_fails_is_reported_with_the_rest(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buildah = Scripted(tmp_path, server=("sh", "-c", "echo no bundle; exit 3"))
    assert run(buildah, "orchestrator", "exporter") == program.FAILED
    assert buildah.built == ["orchestrator", "exporter"]
    said = capsys.readouterr()
    assert "FAILED: orchestrator: it did not become healthy" in said.err
    assert "NOT built: language" in said.out


def test_a_base_that_cannot_be_had_is_reported_with_the_rest(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(given: object, buildah: Buildah) -> dict[str, str]:
        raise subprocess.CalledProcessError(1, "mmdebstrap")

    monkeypatch.setattr(program, "build_arguments", refuse)
    assert run(Scripted(tmp_path), "orchestrator") == program.FAILED
    said = capsys.readouterr()
    assert "FAILED: orchestrator: Command 'mmdebstrap'" in said.err
    assert "NOT built: exporter: not asked for" in said.out


def test_all_went_well(run: Callable[..., int], passing: list[Path], tmp_path: Path) -> None:
    buildah = Scripted(tmp_path)
    assert run(buildah, "exporter", "orchestrator") == 0
    assert buildah.built == ["exporter", "orchestrator"]
    assert passing == [PICTURE]


def test_a_server_that_died_at_its_start_is_what_the_trial_tells(tmp_path: Path) -> None:
    server = Scripted(tmp_path, server=("sh", "-c", "echo no bundle here; exit 3"))
    with pytest.raises(TrialError, match=r"did not become healthy .*no bundle here"):
        Trial(server, "container", CONFIG, tmp_path, tmp_path / "log").run(PICTURE)


def test_a_dead_server_is_not_told_to_stop() -> None:
    with subprocess.Popen(["sh", "-c", "exit 3"]) as dead:
        dead.wait()
        assert trial._stop(dead) == 3


def test_the_server_below_is_told_to_stop(tmp_path: Path) -> None:
    """And not the processes above it, which end when it does, with its status."""
    ready = tmp_path / "ready"
    below = f"trap 'exit 7' TERM; : > {ready}; while :; do read -t 0.1 || :; done"
    with subprocess.Popen(
        ["bash", "-c", 'bash -c "$1"; exit $?', "above", below], stdin=subprocess.DEVNULL
    ) as above:
        while not ready.exists():
            time.sleep(0.01)
        assert trial._stop(above) == 7


def runs(pid: str) -> bool:
    """Killed processes may stay for a while as zombies."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_server_that_goes_on_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trial, "STOP_SECONDS", 0.3)
    ready = tmp_path / "ready"
    deaf = f"trap '' TERM; echo $$ > {ready}; while :; do read -t 0.1 || :; done"
    with subprocess.Popen(
        ["bash", "-c", 'bash -c "$1"; exit $?', "above", deaf], stdin=subprocess.DEVNULL
    ) as above:
        while not ready.exists() or not ready.read_text():
            time.sleep(0.01)
        with pytest.raises(TrialError, match=r"went on for 0\.3 s"):
            trial._stop(above)
        assert above.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}
    while runs(ready.read_text().strip()):
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("choice", "other"), [("SUITE", "trixie"), ("PACKAGES", ("python3",)), ("LEFT_OUT", ()), ("KEPT", "/none")]
)
def test_another_choice_makes_another_base(
    choice: str, other: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def debootstraps(command: list[str], **how: object) -> None:
        commands.append(command)
        Path(command[-1]).touch()

    monkeypatch.setattr(subprocess, "run", debootstraps)
    buildah = Scripted(tmp_path)
    first = base.ensure_base(buildah, tmp_path)
    assert base.ensure_base(buildah, tmp_path) == first
    assert len(commands) == 1
    monkeypatch.setattr(base, choice, other)
    assert base.ensure_base(buildah, tmp_path) != first
    assert len(commands) == len(set(buildah.imported)) == 2
