"""Debian's Prometheus with our rules, and every expression that rules and dashboard put to it.

Knows its HTTP interface. Does not know which servers it scrapes.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from loadtest.server_process import free_port
from tests.conftest import REPOSITORY
from tests.deploy.promtool import ALERTS, RECORDING, rules

DASHBOARD = REPOSITORY / "deploy" / "grafana" / "mediround.json"
METRIC = re.compile(r"(?<![\w:$.])(?:mediround_|vllm:|nv_)\w+")
VARIABLES = {"$__rate_interval": "1m", "$job": ".+"}


def recorded() -> list[str]:
    return [rule["expr"] for rule in rules(RECORDING)]


def alerting() -> list[str]:
    return [rule["expr"] for rule in rules(ALERTS)]


def shown() -> list[str]:
    """Of every panel, with Grafana's variables replaced."""
    expressions = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            assert "$" not in expression
            expressions.append(expression)
    return expressions


def named(expressions: list[str]) -> set[str]:
    return {name for expression in expressions for name in METRIC.findall(expression)}


class Prometheus:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._then: dict[str, str] = {}

    def get(self, path: str, **query: str) -> Any:
        """The answer's data."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  # loopback
            return json.load(answer)["data"]

    def vector(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=expression, **self._then)["result"]
        return found

    def await_scrapes(self, jobs: Iterable[str], more: int) -> None:
        """So many more of each job."""
        wanted = {job: self._scrapes(job) + more for job in jobs}
        deadline = time.monotonic() + 60
        while any(self._scrapes(job) < number for job, number in wanted.items()):
            assert time.monotonic() < deadline, self.get("targets")["activeTargets"]
            time.sleep(0.5)

    def stop_the_clock(self) -> None:
        """What is asked from here on is asked as of now."""
        self._then = {"time": str(time.time())}

    def _scrapes(self, job: str) -> int:
        """That were answered."""
        found = self.vector(f'sum_over_time(up{{job="{job}"}}[1h])')
        return int(found[0]["value"][1]) if found else 0


@contextmanager
def prometheus(directory: Path, targets: dict[str, int]) -> Iterator[Prometheus]:
    """A plain child on a free loopback port, with our rules."""
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in targets.items()
    ]
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration = {"global": every, "rule_files": [f"{RECORDING.parent}/*.yml"], "scrape_configs": jobs}
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    with (directory / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=log)
        try:
            _await_ready(port, process, directory / "prometheus.log")
            yield Prometheus(port)
        finally:
            process.terminate()
            process.wait(20)


def _await_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
