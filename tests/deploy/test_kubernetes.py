"""The batch run's Indexed Job: its parts are all of the run, its flags the command's, and faults are found.

What its pods tell of themselves, and that Debian's node_exporter, started as its manifest says, shows it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from loadtest.server_process import free_port
from mediround import _annotate_values
from mediround.__main__ import _parser
from mediround.annotate.engines.interface import Progress
from mediround.annotate.progress import shown
from tests.conftest import REPOSITORY

MANIFEST = REPOSITORY / "deploy/kubernetes/annotate.yaml"
METRICS = REPOSITORY / "deploy/kubernetes/annotate-metrics.yaml"


def job() -> dict[str, Any]:
    return yaml.safe_load(MANIFEST.read_text())["spec"]


def exporter() -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics' deployment and service."""
    deployment, service = yaml.safe_load_all(METRICS.read_text())
    return deployment["spec"], service["spec"]


def exporter_flags() -> list[str]:
    (container,) = exporter()[0]["template"]["spec"]["containers"]
    flags: list[str] = container["args"]
    return flags


def exporter_flag(name: str) -> str:
    (value,) = (flag.removeprefix(f"--{name}=") for flag in exporter_flags() if flag.startswith(f"--{name}="))
    return value


def validated(path: Path) -> int:
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", "--quiet", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_its_parts_are_all_of_a_run_and_its_flags_the_commands() -> None:
    (container,) = job()["template"]["spec"]["containers"]
    parts = job()["completions"]
    assert job()["parallelism"] == parts
    shards, files = set(), set()
    for index in range(parts):
        words = [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in container["args"]]
        given = _parser().parse_args(["annotate", *words])
        assert given.grace < job()["template"]["spec"]["terminationGracePeriodSeconds"]
        shards.add(given.shard)
        files.add(given.metrics)
    assert shards == {(index, parts) for index in range(parts)}
    assert {path.suffix for path in files} == {".prom"}
    assert len(files) == parts
    assert {str(path.parent) for path in files} == {exporter_flag("collector.textfile.directory")}
    assert _annotate_values.shard(f"0/{parts}") in shards


def test_it_passes_the_schema_and_what_is_wrong_does_not(tmp_path: Path) -> None:
    assert [validated(path) for path in (MANIFEST, METRICS)] == [0, 0]
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(MANIFEST.read_text().replace("completions: 4", 'completions: "4"'))
    assert validated(wrong) != 0
    wrong.write_text(MANIFEST.read_text().replace("completionMode:", "completionsMode:"))
    assert validated(wrong) != 0


def test_the_exporter_reads_the_jobs_volume_and_the_service_leads_to_it() -> None:
    deployment, service = exporter()
    pod = deployment["template"]
    assert service["selector"] == deployment["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert [each["port"] for each in service["ports"]] == [9100]
    of_job = {each["name"]: each for each in job()["template"]["spec"]["volumes"]}
    (volume,) = pod["spec"]["volumes"]
    claim = "persistentVolumeClaim"
    assert volume[claim]["claimName"] == of_job["job"][claim]["claimName"]
    assert pod["spec"]["securityContext"] == job()["template"]["spec"]["securityContext"]


def test_node_exporter_shows_what_the_pods_write(tmp_path: Path) -> None:
    program = shutil.which("prometheus-node-exporter")
    if program is None:
        pytest.skip("no node_exporter: Debian package prometheus-node-exporter")
    for shard in ("0-of-2", "1-of-2"):
        with shown("none", "ab" * 32, shard=shard, metrics=tmp_path / f"{shard[0]}.prom") as teller:
            teller(Progress(total=10, done=5, failed=1, here=5, in_flight=0))
            teller.ended("6 items failed, more than --max-failures 5")
    port = free_port()
    other = {
        f"--collector.textfile.directory={exporter_flag('collector.textfile.directory')}": str(tmp_path),
        f"--web.listen-address={exporter_flag('web.listen-address')}": f"127.0.0.1:{port}",
    }
    flags = [f"{flag.partition('=')[0]}={other[flag]}" if flag in other else flag for flag in exporter_flags()]
    with subprocess.Popen([program, *flags], stderr=subprocess.DEVNULL) as process:
        try:
            text = answered(f"http://127.0.0.1:{port}/metrics", process)
        finally:
            process.terminate()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    ours = [sample for sample in samples if sample.name == "mediround_annotate_ended" and sample.value == 1]
    assert {(each.labels["shard"], each.labels["reason"]) for each in ours} == {
        ("0-of-2", "failures"),
        ("1-of-2", "failures"),
    }
    assert [sample.value for sample in samples if sample.name == "node_textfile_scrape_error"] == [0]


def answered(url: str, process: subprocess.Popen[bytes]) -> str:
    """Once it answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # loopback
                return str(answer.read().decode())
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
