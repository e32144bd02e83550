"""``make gpu-check`` where there is no GPU, and on a host that pretends to have one.

Each row's commands are read by the programs that they name, with their flags. A made-up host has an nvidia-smi, a
docker and Pythons that write down what they are asked and answer from a table.
"""

from __future__ import annotations

import argparse
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.gpu_check import __main__ as gpu_check
from deploy.gpu_check.commands import Places, StepError, run
from deploy.gpu_check.page import PAGE, with_tables
from deploy.gpu_check.rows import PREPARE, ROWS, Step, parity
from exporters.tensorrt.triton_release import IMAGE
from tests.conftest import REPOSITORY

STEPS = [PREPARE, *(step for row in ROWS for step in row.steps)]
HERE = REPOSITORY


def places(work: Path) -> Places:
    golden = HERE / "tests/parity/golden"
    return Places.under(work, HERE / "models/mediround-lite", golden, work / "environments", "key")


def test_the_page_has_the_rows() -> None:
    page = (REPOSITORY / PAGE).read_text()
    assert with_tables(page) == page, "write it: python -m deploy.gpu_check --write-page"
    assert all(f"| `{row.name}` |" in page for row in ROWS)


def test_rows_have_names_of_their_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.gpu_check"], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpu-check: no GPU: run it on the host of one")
    assert "Traceback" not in done.stderr


class Read(Exception):  # a program has read its arguments, and goes no further
    pass


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs end once they have read their arguments."""
    read = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *given: object) -> None:
        read(self, *given)  # type: ignore[call-overload]  # whatever it is given
        raise Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


PROGRAMS = {step.command: step for step in STEPS if " -m " in step.command and "-m pytest" not in step.command}


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # other tests import them
@pytest.mark.parametrize("command", PROGRAMS)
def test_each_program_takes_the_rows_arguments(
    command: str, reading: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if "benchmarks.language" in command:
        pytest.importorskip("transformers", reason="the plain loop needs it: make env-vllm")
    _, (_, flag, module, *arguments) = places(tmp_path).words(PROGRAMS[command])
    assert flag == "-m"
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(Read):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def test_each_docker_command_names_the_image_or_the_container(tmp_path: Path) -> None:
    at = places(tmp_path)
    words = [at.words(step)[1] for step in STEPS if step.command.startswith("docker")]
    words += [at.words(Step(command))[1] for row in ROWS for command in (row.log, row.cleanup) if command]
    assert len(words) == 7
    assert all(IMAGE in each or at.container in each for each in words)
    assert not any("{" in word for each in words for word in each)
    assert all(Path(word.partition(":")[0]).is_absolute() for each in words for word in each if ":/models" in word)


def test_the_tests_of_a_row_are_found() -> None:
    """With the plug-in that puts vLLM on the GPU, which they have taken by then."""
    pytest.importorskip("vllm", reason="make env-vllm")
    [step] = [step for step in STEPS if "-m pytest" in step.command]
    words = [sys.executable, *shlex.split(step.command)[1:], "--collect-only", "--quiet", "--no-header"]
    done = subprocess.run(words, cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"test_storm|storm_of_cancels", done.stdout)
    assert "[vllm with chosen rows]" in done.stdout
    taken = "import tests.on_gpu, tests.contract.conftest as c; print(c.OPTIONS.eager, c.OPTIONS.dtype)"
    done = subprocess.run([sys.executable, "-c", taken], cwd=HERE, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "float32"], done.stderr


REPORT = json.dumps(
    {
        "engines": ["onnxruntime/CUDAExecutionProvider"] * 2,
        "rounds": [
            {"feature_diff": 2e-5, "score_diff": None, "flipped_pixels": 3},
            {"feature_diff": 1e-5, "score_diff": 3e-6, "flipped_pixels": 0},
        ],
    },
    indent=2,
)
ANSWERS = {
    "exporters parity": REPORT,
    "exporters tensorrt": "kept image_encoder-1.plan\nkept mask_decoder-1.plan\nbuilt in 3.0 s\n"
    "r/image_encoder/1/model.plan is for this host\nr/mask_decoder/1/model.plan is for this host\n",
    "libnvinfer": "/usr/lib/x86_64-linux-gnu/libnvinfer.so.10.16.1\n",
    "benchmarks.attention": "| tensorrt | fused | 0.004 | 0.5 | - | 0.12 | - |",
    "benchmarks.language": "| alone → 32 at once | 0 / 0 | 0 / 0 |",
    "-m pytest": "77 passed in 3 s",
    "logs --tail": "Triton's last words",
}
PROGRAM = """#!{python} -S
import pathlib, sys
asked = " ".join(sys.argv[1:])
with open({log!r}, "a") as log:
    print(asked, file=log)
if {fails!r} and {fails!r} in asked:
    sys.exit("it cannot: " + asked)
print(*(text for words, text in {answers!r}.items() if words in asked))
"""


@dataclass
class Host:
    """Pretends to have a GPU."""

    directory: Path
    fails: str = ""
    """Words of the command that fails."""

    def set_up(self) -> None:
        text = PROGRAM.format(python=sys.executable, log=str(self.log), fails=self.fails, answers=ANSWERS)
        for name in ("bin/docker", "environments/gpu/bin/python", "environments/cuda/bin/python"):
            self.program(name, text)
        self.program("bin/nvidia-smi", "#!/bin/sh\necho 'NVIDIA H100, 9.0, 580.1, 81559'\n")

    def program(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    @property
    def log(self) -> Path:
        return self.directory / "asked"

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def report(self) -> str:
        return (self.directory / "report.md").read_text()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    made.set_up()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    paths = {"--environments": "environments", "--work": "work", "--report": "report.md"}
    arguments = [word for flag, name in paths.items() for word in (flag, str(tmp_path / name))]
    monkeypatch.setattr(sys, "argv", ["gpu_check", *arguments])
    return made


def test_all_rows_run_in_their_order_and_the_report_has_their_figures(host: Host) -> None:
    assert gpu_check.main() == 0
    prepared, first, *_ = (line for line in host.asked if "exporters" in line)
    assert "exporters bundle --checkpoint" in prepared
    assert "--provider cuda" in first
    report = host.report
    assert [report.index(f"| `{row.name}` | passed |") for row in ROWS] == sorted(
        report.index(f"| `{row.name}` | passed |") for row in ROWS
    )
    assert "| GPU | capability 9.0, name NVIDIA H100, driver 580.1" in report
    assert "2 rounds, largest feature_diff 2e-05, largest score_diff 3e-06, 3 pixels flipped" in report
    assert "libnvinfer.so.10.16.1" in report


def test_it_stops_at_the_first_failure_and_leaves_no_triton(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.fails = "--vision triton://"
    host.set_up()
    assert gpu_check.main() == 1
    assert capsys.readouterr().err.startswith("gpu-check: triton: `")
    assert host.asked[-1] == "rm --force mediround-gpu-check"
    assert "| `plans` | passed |" in host.report
    assert "| `triton` | failed |" in host.report
    assert "| `vllm` | not run | |" in host.report
    assert "it cannot: -m exporters parity" in host.report
    assert "Triton's last words" in host.report


def test_rows_can_be_chosen(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.directory / "work/golden-bundle").mkdir(parents=True)  # of an earlier run
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--from", "triton", "--only", "vllm", "onnxruntime"])
    assert gpu_check.main() == 0
    assert [line for line in host.asked if "-m " in line] == [host.asked[-1]]
    assert "--language vllm" in host.asked[-1]


@pytest.mark.parametrize(("lacks", "words"), [("environments/cuda", "make env-gpu"), ("bin/docker", "no docker")])
def test_what_is_missing_is_named(host: Host, capsys: pytest.CaptureFixture[str], lacks: str, words: str) -> None:
    (host.directory / lacks).rename(host.directory / "away")
    assert gpu_check.main() == 2
    assert words in capsys.readouterr().err


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    started = tmp_path / "started"
    command = f"sh -c 'sleep 60 & echo $! > {started}; wait'"
    with pytest.raises(StepError, match=r"was not done after 1 s, when the time was over"):
        run(Step(command), places(tmp_path), 1.0)
    words = Path("/proc", started.read_text().strip(), "cmdline")
    while words.exists() and words.read_bytes():  # what was killed has no words, and then no file
        time.sleep(0.05)


def test_a_command_that_does_not_say_what_it_must_fails(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"did not say kept: built"):
        run(Step("echo built", ("kept",)), places(tmp_path), 10.0)


def test_a_parity_report_without_rounds_has_no_differences() -> None:
    assert parity('{"engines": ["a", "b"], "rounds": []}') == [
        "a and b: 0 rounds, largest feature_diff 0, largest score_diff 0, 0 pixels flipped"
    ]
