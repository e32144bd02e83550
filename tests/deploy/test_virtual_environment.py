"""``make``'s environment: which Python makes it, when it is made anew, and how it is removed.

The Makefile is the real one, in a directory of its own; the Pythons are scripts that answer what is asked of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PYTHON = """#!/bin/sh
# Python {version}: says so, and makes environments whose Python it is.
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && touch "$3/pyvenv.cfg" && cp "$0" "$3/bin/python" ;;
  *_base_executable*) [ {fits} = 0 ] && echo "{version}" ;;
  *sys.exit*) exit {fits} ;;
  *) echo {version} ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Checkout:
    directory: Path

    def python(self, name: str, version: str) -> Path:
        """A Python of that version, as ``name`` on the path."""
        fits = 0 if tuple(map(int, version.split("."))) >= (3, 11) else 1
        path = self.directory / "path" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(PYTHON.format(version=version, fits=fits))
        path.chmod(0o755)
        return path

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if k not in {"PYTHON", "VENV", "MAKEFLAGS", "MAKELEVEL"}}
        path = f"{self.directory / 'path'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["make", *words],
            cwd=self.directory,
            env=inherited | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    def environment(self, *words: str) -> str:
        """Made; the version of its Python."""
        done = self.make(".venv/.python", *words)
        assert done.returncode == 0, done.stderr
        python = [str(self.directory / ".venv/bin/python"), "-c", "version"]
        return subprocess.run(python, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    (tmp_path / "deploy").mkdir()
    for name in ("Makefile", "deploy/virtual-environment.sh"):
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    return Checkout(tmp_path)


@pytest.mark.parametrize("target", ["demo", "test", "check", "serve", "env"])
def test_too_old_a_python_is_told_in_one_line_before_anything_is_made(target: str, checkout: Checkout) -> None:
    checkout.python("python3", "3.10.12")
    done = checkout.make(target)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert lines == [
        "error: Python 3.11 or later is needed, and python3 is 3.10.12: install one, or name it: "
        "make PYTHON=python3.12 ..."
    ]
    assert done.returncode != 0
    assert not (checkout.directory / ".venv").exists()


def test_a_python_that_is_not_there_is_told_so(checkout: Checkout) -> None:
    done = checkout.make(".venv/.python", "PYTHON=python9")
    assert "error: Python 3.11 or later is needed, and python9 cannot be run" in done.stderr


def test_an_environment_that_fits_is_kept_with_what_is_in_it(checkout: Checkout) -> None:
    checkout.python("python3", "3.11.2")
    assert checkout.environment() == "3.11.2"
    (checkout.directory / ".venv/.serving").touch()
    for path in ("pyproject.toml", "clients/pyproject.toml", "constraints.txt"):
        (checkout.directory / path).parent.mkdir(exist_ok=True)
        (checkout.directory / path).touch()
        os.utime(checkout.directory / path, (0, 0))
    done = checkout.make(".venv/.serving")
    assert "up to date" in done.stdout or done.stdout == ""
    assert done.returncode == 0


def test_an_environment_of_another_python_than_the_one_named_is_made_anew(checkout: Checkout) -> None:
    checkout.python("python3", "3.11.2")
    checkout.python("python3.12", "3.12.1")
    assert checkout.environment() == "3.11.2"
    assert checkout.environment("PYTHON=python3.12") == "3.12.1"
    # Where none is named, the one that is there is as good.
    assert checkout.environment() == "3.12.1"


@pytest.mark.parametrize("broken", ["", "#!/nowhere/python\n", PYTHON.format(version="3.10.1", fits=1)])
def test_an_environment_whose_python_is_gone_or_too_old_is_made_anew(broken: str, checkout: Checkout) -> None:
    checkout.python("python3", "3.12.1")
    checkout.environment()
    left = checkout.directory / ".venv/bin/python"
    left.write_text(broken) if broken else left.unlink()
    (checkout.directory / ".venv/.serving").touch()
    assert checkout.environment() == "3.12.1"
    assert not (checkout.directory / ".venv/.serving").exists()


def test_a_directory_that_is_no_environment_is_never_removed(checkout: Checkout) -> None:
    checkout.python("python3", "3.12.1")
    (checkout.directory / "home").mkdir()
    (checkout.directory / "home/thesis.txt").touch()
    for target in ("home/.python", "distclean"):
        done = checkout.make(target, "VENV=home")
        assert done.returncode != 0
        assert "home is no virtual environment" in done.stdout + done.stderr
    assert (checkout.directory / "home/thesis.txt").exists()


def test_clean_keeps_the_environment_and_distclean_removes_it(checkout: Checkout) -> None:
    checkout.python("python3", "3.12.1")
    checkout.environment()
    (checkout.directory / "build").mkdir()
    assert checkout.make("clean").returncode == 0
    assert not (checkout.directory / "build").exists()
    assert (checkout.directory / ".venv").exists()
    assert checkout.make("distclean").returncode == 0
    assert not (checkout.directory / ".venv").exists()


def test_help_lists_every_variable_with_its_default_in_a_line() -> None:
    listed = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for line in (REPOSITORY / "Makefile").read_text().splitlines():
        name, asked, default = line.partition(" ?=")
        if asked:
            [said] = [line for line in listed.splitlines() if line.split()[:1] == [name]]
            assert default.startswith(" $(") or said.endswith(f"({default.strip() or 'none'})")
            assert len(said) > len(name) + len(default) + 5, "it is not said what it is"
