"""The batch run's Indexed Job: its parts are all of the run, its flags the command's, and faults are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from mediround import _annotate_entry
from mediround.__main__ import _parser
from tests.conftest import REPOSITORY

MANIFEST = REPOSITORY / "deploy/kubernetes/annotate.yaml"


def job() -> dict[str, Any]:
    return yaml.safe_load(MANIFEST.read_text())["spec"]


def validated(path: Path) -> int:
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", "--quiet", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_its_parts_are_all_of_a_run_and_its_flags_the_commands() -> None:
    (container,) = job()["template"]["spec"]["containers"]
    parts = job()["completions"]
    assert job()["parallelism"] == parts
    shards = set()
    for index in range(parts):
        words = [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in container["args"]]
        given = _parser().parse_args(["annotate", *words])
        assert given.grace < job()["template"]["spec"]["terminationGracePeriodSeconds"]
        shards.add(given.shard)
    assert shards == {(index, parts) for index in range(parts)}
    assert _annotate_entry.shard(f"0/{parts}") in shards


def test_it_passes_the_schema_and_what_is_wrong_does_not(tmp_path: Path) -> None:
    assert validated(MANIFEST) == 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(MANIFEST.read_text().replace("completions: 4", 'completions: "4"'))
    assert validated(wrong) != 0
    wrong.write_text(MANIFEST.read_text().replace("completionMode:", "completionsMode:"))
    assert validated(wrong) != 0
