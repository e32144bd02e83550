"""Debian's promtool, asked about many expressions at once.

Knows its command line and how it names what fails. Does not know our rules.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
RECORDING, ALERTS = PROMETHEUS / "rules" / "recording.yml", PROMETHEUS / "rules" / "alerts.yml"
needed = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool: Debian package prometheus")


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments: str) -> str:
    """What it finds wrong; empty when nothing is."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def numbered(expression: str, number: int) -> str:
    """The same, to be known again in what promtool says."""
    return f"{expression} # {number}"


def failed(said: str) -> set[int]:
    """The numbers of the expressions that promtool evaluated, and found other than expected."""
    return {int(number) for number in re.findall(r'expr: ".*? # (\d+)", time: \S+,\s+exp:', said)}
