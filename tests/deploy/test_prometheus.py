"""A real Prometheus scrapes real servers, and every expression of rules and dashboard is put to it.

The demo's servers under load; and, for what only they tell, vLLM and Triton where these are installed.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from demo.stack import ONNX, stack
from demo.triton.server import Installation, Triton
from loadtest.server_process import free_port, launched
from mediround import Client, MediRoundError, Round
from mediround.annotate.engines.interface import Progress
from mediround.annotate.progress import exposition
from serving.bundle import Bundle
from serving.telemetry import metrics as telemetry
from tests.conftest import REPOSITORY
from tests.deploy.prometheus import Prometheus, alerting, named, prometheus, recorded, shown

BUNDLE = REPOSITORY / "models" / "mediround-lite"
KNOWN = """
name = "archive"
[arrivals]
process = "constant"
rate = 1.0
duration = 3.0
[dialogues]
mode = "known"
rounds = [4, 4]
batch_share = 1.0
shapes = { chain = 1, star = 1 }
[images]
pictures = "slices/slice_z*.png"
reuse = 0.5
[objective]
answered = 1.0
[generator]
late = 30.0
"""
LIVE = """
name = "people"
[arrivals]
process = "constant"
rate = 2.0
duration = 10.0
[dialogues]
mode = "live"
rounds = [4, 4]
think = 0.3
[images]
pictures = "slices/slice_z*.png"
reuse = 1.0
[objective]
answered = 1.0
[generator]
late = 30.0
"""
"""On an image that the batch work was about, so that no round waits for the encoder."""
BATCH = exposition(Progress(100, 50, 2, 40, 8, 120), "ab" * 32, "", running=True)
ASKED = 4
"""Times that the servers beside the demo's are asked, with a scrape in between."""
TRITON_IS_INSTALLED = Installation(REPOSITORY / "build" / "triton").complete
VLLM_IS_INSTALLED = importlib.util.find_spec("vllm") is not None
OF_TRITON, OF_VLLM = re.compile(r"nv_|mediround_(?:triton|slab)_|\"triton\""), re.compile("vllm:")
CONDITION = re.compile(r" and (?:on \(job\) )?")
COMPARED = re.compile(r" (>|<|==) ")
pytestmark = [
    pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus: Debian package prometheus"),
    pytest.mark.timeout(600),
]


def told_by_the_demo(expression: str) -> bool:
    return not OF_TRITON.search(expression) and not OF_VLLM.search(expression)


def conditions() -> list[str]:
    """Of the alerts, those about something that is there."""
    parts = {part for expression in alerting() for part in CONDITION.split(expression)}
    return sorted(part for part in parts if not part.startswith("absent") and " unless " not in part)


def load(scenario: str, address: str, directory: Path) -> None:
    """Asked by ``python -m loadtest``; all of it is answered."""
    file = directory / "scenario.toml"
    file.write_text(scenario)
    command = [sys.executable, "-m", "loadtest", "run", "--target", address, "--scenario", str(file)]
    done = subprocess.run(
        [*command, "--out", str(directory / "report")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def batch_metrics(port: int) -> Iterator[None]:
    """What node_exporter would tell of a batch run that finishes an item between any two scrapes, by HTTP."""
    scrapes = count()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            done = next(scrapes)
            text = exposition(Progress(10_000, 50 + done, 2, 40 + done, 8, 120), "ab" * 32, "", running=True)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """The demo's servers on ONNX Runtime, as Prometheus had them at the end of some load."""
    directory = tmp_path_factory.mktemp("demo")
    shutil.copytree(BUNDLE / "slices", directory / "slices")
    ports = {"mediround": free_port(), "mediround-language": free_port()}
    ours, theirs = (("--metrics-listen", f"127.0.0.1:{port}") for port in ports.values())
    ports["node"] = free_port()
    kept = ("--sessions.store", "sqlite", "--sessions.path", str(directory / "sessions.db"))
    with (
        stack(BUNDLE, directory, ONNX, ONNX, (*ours, *kept), language_flags=theirs) as server,
        batch_metrics(ports["node"]),
        prometheus(directory, ports) as reader,
    ):
        reader.await_scrapes(ports, 2)
        for scenario in (KNOWN, LIVE):
            load(scenario, server.address, directory)
        reader.await_scrapes(ports, 3)  # and the rules, evaluated as often, have seen the last round
        reader.stop_the_clock()
        yield reader


@pytest.mark.parametrize("expression", [*recorded(), *shown()])
def test_no_query_fails_or_finds_nothing(demo: Prometheus, expression: str) -> None:
    found = demo.vector(expression)
    if told_by_the_demo(expression):
        assert found
        assert any(sample["value"][1] != "NaN" for sample in found)


@pytest.mark.parametrize("expression", alerting())
def test_no_alert_has_a_reason(demo: Prometheus, expression: str) -> None:
    """However long it would have to last to fire."""
    assert demo.vector(expression) == []


@pytest.mark.parametrize("condition", conditions())
def test_each_condition_finds_what_it_compares(demo: Prometheus, condition: str) -> None:
    found = demo.vector(COMPARED.sub(r" \1 bool ", condition, count=1))
    if told_by_the_demo(condition):
        assert found


def test_there_was_enough_to_judge_by(demo: Prometheus) -> None:
    enough = [condition for condition in conditions() if "rounds:increase" in condition]
    assert len(enough) == 4
    assert [condition for condition in enough if not demo.vector(condition)] == []


def test_each_alert_finds_its_metrics(demo: Prometheus) -> None:
    known = set(demo.get("label/__name__/values"))
    assert {name for name in named(alerting()) if told_by_the_demo(name)} <= known


def test_every_server_answers_its_scrapes(demo: Prometheus) -> None:
    answered = {sample["metric"]["job"]: sample["value"][1] for sample in demo.vector("up")}
    assert answered == {"mediround": "1", "mediround-language": "1", "node": "1"}


def test_each_rule_is_evaluated_without_error(demo: Prometheus) -> None:
    rules = [rule for group in demo.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(recorded()) + len(alerting())
    assert [rule for rule in rules if rule["health"] != "ok"] == []


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
def beside(
    random_bundle: Bundle, random_triton_if_installed: Triton | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """An orchestrator with vLLM and Triton, each where it is installed, as Prometheus has them."""
    directory, bundle = tmp_path_factory.mktemp("beside"), random_bundle.directory
    ports = {"mediround": free_port(), "mediround-language": free_port()}
    engine = "vllm-cpu" if VLLM_IS_INSTALLED else "onnx"
    listen = {job: ["--metrics-listen", f"127.0.0.1:{port}"] for job, port in ports.items()}
    with ExitStack() as running:
        flags = ["--engine", engine, *listen["mediround-language"]]
        language = running.enter_context(
            launched(bundle, directory / "language.log", flags, 400, module="serving.llm")
        )
        flags, secret = ["--language", f"grpc://{language.address}", *listen["mediround"]], {}
        if (triton := random_triton_if_installed) is not None:
            ports["triton"] = triton.metrics_port
            flags += ["--vision", f"triton://{triton.address}"]
            secret["MEDIROUND_TRITON__ADMIN_KEY"] = triton.admin_key
        server = running.enter_context(launched(bundle, directory / "server.log", flags, environment=secret))
        reader = running.enter_context(prometheus(directory, ports))
        reader.await_scrapes(ports, 1)
        for seed in range(ASKED):
            ask(server.address, seed)
            reader.await_scrapes(ports, 1)
        reader.stop_the_clock()
        yield reader


@pytest.mark.parametrize("expression", [e for e in [*recorded(), *shown()] if not told_by_the_demo(e)])
def test_what_only_vllm_or_triton_tells(expression: str, request: pytest.FixtureRequest) -> None:
    if OF_TRITON.search(expression) and not TRITON_IS_INSTALLED:
        pytest.skip("Triton is not installed: make env-triton")
    if OF_VLLM.search(expression) and not VLLM_IS_INSTALLED:
        pytest.skip("vLLM is not installed: make env-vllm")
    found = request.getfixturevalue("beside").vector(expression)
    assert any(sample["value"][1] != "NaN" for sample in found)


@pytest.mark.skipif(not TRITON_IS_INSTALLED, reason="Triton is not installed: make env-triton")
def test_what_triton_was_asked_went_by_shared_memory(beside: Prometheus) -> None:
    """The orchestrator tells of its own store, slabs and engine."""

    def one(expression: str) -> float:
        [sample] = beside.vector(expression)
        return float(sample["value"][1])

    images = ASKED + 1  # and that of the warm-up
    assert one('up{job="triton"}') == 1
    assert one('mediround_embeddings_held{place="shared"}') == images
    assert one('mediround_embeddings_held{place="own"}') == 0
    assert one('mediround_slab_slots{slab="embeddings", state="taken"}') == images
    assert one('sum (mediround_slab_slots{slab="embeddings"})') == (256 << 20) / (4 << 20)
    assert one('mediround_triton_calls_total{call="encode", embedding="shared"}') == images
    assert one('mediround_triton_calls_total{call="decode", embedding="shared"}') > images
    assert one('sum (mediround_triton_calls_total{embedding="grpc"})') == 0
    assert one('mediround_triton_tensor_bytes_total{direction="sent"}') > 0
    assert one("mediround_triton_mappings_total") == len(telemetry.SLABS)
    assert one("mediround_triton_handshakes_total") == 1


def test_every_metric_of_ours_is_in_the_golden_text() -> None:
    golden = (REPOSITORY / "tests" / "metrics.txt").read_text()
    written = set(re.findall(r"^(mediround_\w+)", golden + BATCH, re.MULTILINE))
    read = {name for name in named([*recorded(), *alerting(), *shown()]) if name.startswith("mediround_")}
    assert len(read) > 20
    assert read <= written
