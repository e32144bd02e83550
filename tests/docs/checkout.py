"""A checkout as a reader has it, for the commands of the pages: our files by links, its own builds, one server.

Knows what the placeholders of the pages stand for, and which commands are servers. Installs nothing: the
environment is this one's, under other stamps.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from demo.triton.server import Installation, triton
from exporters.triton_repository import write_repository
from loadtest.server_process import free_port
from serving.bundle import load_bundle
from tests.conftest import REPOSITORY
from tests.unit.client.dicom.slices import WHOLE, mr, saved

BUNDLED = "models/mediround-lite"
SLICE = "slice_z076"
GOLDEN = "tests/parity/golden"
COMMAND_SECONDS, READY_SECONDS, STOP_SECONDS = 250.0, 120.0, 30.0
SUBSTITUTES = (
    # What a reader puts in by hand.
    (
        r"--checkpoint DIR --base DIR --clip DIR",
        f"--checkpoint {GOLDEN} --base {GOLDEN}/llava_med --clip {GOLDEN}/clip",
    ),
    (r"--golden DIR", f"--golden {GOLDEN}"),
    (r"\bsources/mediround\b", GOLDEN),
    (r"\bsources/(llava_med|clip)\b", rf"{GOLDEN}/\1"),
    (r"--bundle (DIR|BUNDLE)\b", f"--bundle {BUNDLED}"),
    (r"--root (DIR|IMAGES)\b", "--root build/few"),
    (r"\b(dialogues|DIALOGUES)\.json\b", "build/few/dialogues.json"),
    (r"--out OUT\b", "--out build/own"),
    (r"--out NEW\b", "--out build/new"),
    (r"--out REPO\b", "--out build/repository"),
    (r"\b(A|B|build/a|build/b)/report\.json", "build/evaluated/report.json"),
    (r"\bbuild/(before|after)\b", "build/loadtest"),
    (r"triton://HOST:PORT", "triton://{triton}"),
    # The server that stands ready, instead of one that the reader has started.
    (r"\bADDR\b|\bHOST:PORT\b|127\.0\.0\.1:50051", "{server}"),
    (r"127\.0\.0\.1:9464", "{metrics}"),
    # A language server that the same block starts.
    (r"127\.0\.0\.1:50061", "{language}"),
    # A load of seconds instead of minutes.
    (r"loadtest/scenarios/(\w+)\.toml", r"build/scenarios/\1.toml"),
)
SERVERS = re.compile(r"-m serving(\.llm)?\b(?!\.healthcheck)|make serve\b")
VERDICTS = re.compile(
    r"objective: (missed|invalid)|B is worse|is invalid: the load test's own|nothing written: not close enough"
)
"""What a command that was run says where its exit status is a verdict on this machine or the model."""
REPORTS = re.compile(r"exporters (parity|vision)\b")
"""Commands whose standard output is JSON and nothing else, whatever their libraries log."""
TRITON = {"MEDIROUND_TRITON__ADMIN_KEY": "of-these-tests"}
STAMPS = (".python", ".serving", ".export", ".vllm", ".load", ".evaluate")
SKIPPED = re.compile(r"no Triton in|this CPU computes in")
"""What a machine may lack, in the words of the command."""


class Lacking(Exception):
    """This machine lacks what the command needs; the message says what."""


@dataclass(frozen=True, slots=True)
class Checkout:
    directory: Path
    server: str
    metrics: str
    done: set[str] = field(default_factory=set)
    """Commands that ran: what two pages say in the same words is run once."""

    def run(self, commands: list[str]) -> None:
        """In their order; servers go on until the last has ended.

        Raises:
            AssertionError: one cannot be run.
            Lacking: this machine lacks something.
        """
        language = f"127.0.0.1:{free_port()}"
        with ExitStack() as running:
            for command in commands:
                words = self._substituted(command, running).replace("{language}", language)
                if SERVERS.search(words):
                    running.enter_context(self._serving(words))
                elif words not in self.done:
                    self._run(words)
                    self.done.add(words)

    def _run(self, words: str) -> None:
        done = subprocess.run(
            ["bash", "-euc", words],
            cwd=self.directory,
            env=self._environment(LISTEN=self.server, **(TRITON if "triton://" in words else {})),
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        said = done.stdout + done.stderr
        if done.returncode and SKIPPED.search(said):
            raise Lacking(said.strip().splitlines()[-1])
        assert done.returncode == 0 or VERDICTS.search(said), f"{words}\n{said}"
        if REPORTS.search(words):
            json.loads(done.stdout)

    @contextmanager
    def _serving(self, words: str) -> Iterator[None]:
        """A command that serves until it is stopped."""
        own = f"127.0.0.1:{free_port()}"
        log = self.directory / f"build/{own}.log"
        listening = {"LISTEN": own, "MEDIROUND_LISTEN": own, "MEDIROUND_LLM_LISTEN": own}
        with log.open("w") as stream:
            process = subprocess.Popen(
                ["bash", "-euc", words],
                cwd=self.directory,
                env=self._environment(**listening),
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                self._wait(process, log, words)
                yield
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait(STOP_SECONDS)

    @staticmethod
    def _wait(process: subprocess.Popen[bytes], log: Path, words: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            if re.search(r"\bserving (the language half of )?\S+ .* on ", log.read_text()):
                return
            time.sleep(0.1)
        if SKIPPED.search(log.read_text()):
            raise Lacking(log.read_text().strip().splitlines()[-1])
        raise AssertionError(f"{words}\ndoes not serve:\n{log.read_text()}")

    def _substituted(self, command: str, running: ExitStack) -> str:
        words = command
        for pattern, put in SUBSTITUTES:
            words = re.sub(pattern, put, words)
        if SERVERS.search(words):
            own = f"127.0.0.1:{free_port()}"
            words = re.sub(r"(METRICS=|--metrics-listen )\S+", rf"\g<1>{own}", words)
        if "{triton}" in words:
            words = words.replace("{triton}", self._triton(words, running))
        return words.replace("{server}", self.server).replace("{metrics}", self.metrics)

    def _triton(self, words: str, running: ExitStack) -> str:
        """Address of a Triton with the models of the command's bundle."""
        installation = Installation(REPOSITORY / "build/triton")
        if not installation.complete:
            raise Lacking(f"no Triton in {installation.directory}: run `make env-triton`")
        bundle = re.search(r"--bundle (\S+)", words)
        assert bundle
        models = self.directory / "build/models"
        write_repository(load_bundle(self.directory / bundle[1]), models)
        log = self.directory / "build/triton.log"
        [key] = TRITON.values()
        return running.enter_context(triton(models, log, installation=installation, admin_key=key)).address

    def _environment(self, **variables: str) -> dict[str, str]:
        return environment(self.directory) | variables


def environment(directory: Path) -> dict[str, str]:
    """For a command in the checkout. pip, if it were asked, would install nothing."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MEDIROUND_", "MAKE")) and k != "PYTHON"}
    path = f"{directory / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    python = f"{directory}{os.pathsep}{directory / 'clients'}"
    return kept | {
        "PATH": path,
        "PYTHONPATH": python,
        "VENV": ".venv",
        "PIP_DRY_RUN": "1",
        "COLUMNS": "80",
        "SLICES": "build/slices",
    }


def lay(directory: Path) -> None:
    """Links to our files; directories of its own for what commands write."""
    own = {".venv", ".git", "build", "models", "deploy", "dist"}
    for path in REPOSITORY.iterdir():
        if path.name not in own:
            (directory / path.name).symlink_to(path)
    shutil.copytree(REPOSITORY / "deploy", directory / "deploy", ignore=shutil.ignore_patterns("secrets"))
    (directory / "models").mkdir()
    shutil.copytree(REPOSITORY / BUNDLED, directory / BUNDLED)
    _links(Path(sys.prefix), directory / ".venv", STAMPS)
    (directory / "build").mkdir()
    if (REPOSITORY / "build/triton").is_dir():
        _links(REPOSITORY / "build/triton", directory / "build/triton", (".installed",))
    _one_slice(directory / BUNDLED / "slices", directory / "build/slices")
    _series(directory / BUNDLED / "slices", directory / "series")
    (directory / "build/scenarios").mkdir()
    for scenario in (REPOSITORY / "loadtest/scenarios").glob("*.toml"):
        short = scenario.read_text()
        for name, value in (("warm_up", "1.0"), ("duration", "5.0"), ("burst", "2")):
            short = re.sub(rf"^{name} = .*", f"{name} = {value}", short, flags=re.MULTILINE)
        (directory / "build/scenarios" / scenario.name).write_text(short)


def _one_slice(slices: Path, directory: Path) -> None:
    """What demo and evaluate ask about: one slice instead of five."""
    directory.mkdir()
    for name in (f"{SLICE}.png", f"{SLICE}_labels.png", "labels.json"):
        (directory / name).symlink_to(slices / name)
    dialogues = json.loads((slices / "dialogues.json").read_text())
    few = [dialogue for dialogue in dialogues if dialogue["image"] == f"{SLICE}.png"]
    (directory / "dialogues.json").write_text(json.dumps(few))


def _series(slices: Path, directory: Path) -> None:
    """A reader's own DICOM series: one slice."""
    with Image.open(slices / f"{SLICE}.png") as picture:
        slice_ = mr(76, **WHOLE, PixelSpacing=[1, 1])
        slice_.Rows, slice_.Columns = picture.height, picture.width
        slice_.PixelData = picture.convert("L").tobytes() + b"\0"  # of even length
    saved(directory, slice_)


def _links(source: Path, directory: Path, stamps: tuple[str, ...]) -> None:
    """What make takes for an installation that is up to date."""
    directory.mkdir()
    for path in source.iterdir():
        if path.name not in stamps:
            (directory / path.name).symlink_to(path)
    for stamp in stamps:
        (directory / stamp).touch()
