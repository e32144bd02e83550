"""``python -m deploy.gpu_check``: run what only a GPU can show, stop at the first failure, write a report.

Status 0: every row passed. 1: one did not; the report says which. 2: it cannot begin, for want of a GPU or of what
``make env-gpu`` installs.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from deploy.gpu_check.commands import Places, StepError, run
from deploy.gpu_check.page import PAGE, Outcome, report, with_tables
from deploy.gpu_check.rows import PREPARE, ROWS, Environment, Row, Step
from exporters.errors import SourceError
from exporters.tensorrt.gpu import Gpu, find_gpu
from exporters.tensorrt.triton_release import IMAGE
from mediround import __version__

ENVIRONMENTS = get_args(Environment)
NAMES = [row.name for row in ROWS]
PACKAGES = ("vllm", "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt-cu13", "nvidia-cudnn-cu13")
"""Whose versions the report tells."""
VERSIONS = """\
import importlib.metadata as m, json, sys
print(json.dumps({d.metadata["Name"]: d.version for d in m.distributions() if d.metadata["Name"] in sys.argv[1:]}))
"""


class NotHereError(Exception):
    """It cannot begin; the message says what is missing."""


def main() -> int:
    given = _arguments().parse_args()
    if given.write_page:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    places = Places.under(given.work, given.bundle, given.golden, given.environments, secrets.token_hex(16))
    try:
        gpu = _ready(places)
    except NotHereError as missing:
        print(f"gpu-check: {missing}", file=sys.stderr)
        return 2
    rows = [row for row in ROWS[NAMES.index(given.start) :] if not given.only or row.name in given.only]
    return _run(rows, places, _facts(gpu, places), given)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.gpu_check", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--write-page", action="store_true", help=f"only write the rows into {PAGE}")
    parser.add_argument(
        "--bundle", type=Path, default=Path("models/mediround-lite"), help="float32; for the speeds"
    )
    parser.add_argument("--golden", type=Path, default=Path("tests/parity/golden"))
    parser.add_argument("--environments", type=Path, default=Path("build/gpu"), help="of `make env-gpu`")
    parser.add_argument("--work", type=Path, default=Path("build/gpu-check"), help="for what the rows make")
    parser.add_argument("--report", type=Path, default=Path("build/gpu-check.md"))
    parser.add_argument("--minutes", type=float, default=10.0, help="for all rows together (%(default)s)")
    parser.add_argument("--from", dest="start", choices=NAMES, default=NAMES[0], help="the first row to run")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="run these rows alone")
    return parser


def _ready(places: Places) -> Gpu:
    try:
        gpu = find_gpu()
    except SourceError as error:
        raise NotHereError(
            "no GPU: run it on the host of one, where nvidia-smi lists GPUs of one architecture"
        ) from error
    for environment in ENVIRONMENTS:
        if not Path(places.environments, environment, "bin/python").exists():
            raise NotHereError(f"{places.environments}/{environment} is not there: make env-gpu")
    if shutil.which("docker") is None:
        raise NotHereError(f"no docker here, in which Triton runs: install it, and pull {IMAGE}")
    return gpu


def _facts(gpu: Gpu, places: Places) -> dict[str, str]:
    commit = _said(["git", "rev-parse", "--short", "HEAD"])
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "MediRound": f"{__version__}, commit {commit or 'unknown'}",
        "GPU": ", ".join(f"{name} {value}" for name, value in asdict(gpu).items()),
        "Triton": places.image,
        **{f"environment {name}": _versions(places.python(name)) for name in ENVIRONMENTS},
    }


def _versions(python: str) -> str:
    found: dict[str, str] = json.loads(_said([python, "-c", VERSIONS, *PACKAGES]) or "{}")
    return ", ".join(f"{package} {found[package]}" for package in sorted(found))


def _said(words: Sequence[str], stderr: int = subprocess.DEVNULL) -> str:
    """Standard output; empty where the command fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)  # noqa: S603  # of rows.py
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(rows: Sequence[Row], places: Places, facts: dict[str, str], given: argparse.Namespace) -> int:
    """The report is written after each row: what ends a run halfway leaves what was found."""
    until, outcomes = time.monotonic() + given.minutes * 60, list[Outcome]()
    given.work.mkdir(parents=True, exist_ok=True)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    for row in rows:
        print(f"{row.name}: {row.what}", flush=True)
        outcomes.append(_outcome(row, places, until))
        given.report.write_text(report(facts, outcomes), encoding="utf-8")
        print(f"  {outcomes[-1].words} after {outcomes[-1].seconds:.0f} s", flush=True)
        if failure := outcomes[-1].failure:
            print(f"gpu-check: {row.name}: {failure}\n{given.report} has the rest", file=sys.stderr)
            return 1
    print(f"all of {len(rows)} rows passed: {given.report}")
    return 0


def _outcome(row: Row, places: Places, until: float) -> Outcome:
    outcome, began = Outcome(row), time.monotonic()
    steps = row.steps if Path(places.golden_bundle).is_dir() else (PREPARE, *row.steps)
    try:
        for step in steps:
            outcome.figures += run(step, places, until - time.monotonic()).figures
    except StepError as error:
        outcome.failure = str(error)
        if row.log:
            outcome.failure += "\n" + _said(places.words(Step(row.log))[1], subprocess.STDOUT)
    finally:
        if row.cleanup:
            _said(places.words(Step(row.cleanup))[1])
    outcome.seconds = time.monotonic() - began
    return outcome


if __name__ == "__main__":
    sys.exit(main())
