"""``--metrics-listen`` and ``--log-format`` of the real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtest.server_process import LaunchError, free_port, launched
from mediround import Client, MediRoundError, Round
from serving.bundle import Bundle
from tests.unit.telemetry.test_metrics import GOLDEN

NAME = "Doe^Jane"
Run = tuple[dict[str, str], dict[str, str]]
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: str) -> Series:
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:  # loopback
        return str(answer.read().decode())


def value(found: Series, name: str, /, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def engine_up(text: str) -> bool:
    """The language half."""
    return value(series(text), "mediround_engine_up", engine="language") == 1


@pytest.fixture(scope="module")
def run(random_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Texts of the orchestrator before and after some rounds and bereft of its language server, and of that one;
    and their logs.
    """
    logs = tmp_path_factory.mktemp("logs")
    ports = {"orchestrator": free_port(), "language": free_port()}
    texts: dict[str, str] = {}
    with ExitStack() as stack:
        flags = ["--metrics-listen", f"127.0.0.1:{ports['language']}", "--engine", "onnx"]
        language = stack.enter_context(
            launched(random_bundle.directory, logs / "language.log", flags, module="serving.llm")
        )
        flags = ["--language", f"grpc://{language.address}", "--log-format", "json"]
        flags += ["--metrics-listen", f"127.0.0.1:{ports['orchestrator']}"]
        server = stack.enter_context(launched(random_bundle.directory, logs / "server.log", flags))
        texts["fresh"] = fetch(ports["orchestrator"])
        with Client(server.address) as client:
            image = np.random.default_rng(0).integers(1, 256, (64, 64, 3), np.uint8)
            rounds = [Round(f"Where is {NAME}?", mode="forced"), Round("And?", refer_to=0, mode="forced")]
            list(client.segment(image, rounds))
            list(client.segment(image, rounds, priority="batch"))
            with client.open(image) as session, pytest.raises(MediRoundError):
                session.ask(f"{NAME} [SEG]")
        texts["after"], texts["language"] = fetch(ports["orchestrator"]), fetch(ports["language"])
        language.process.kill()
        until = time.monotonic() + 20
        while engine_up(texts.get("bereft", texts["after"])) and time.monotonic() < until:
            time.sleep(0.1)
            texts["bereft"] = fetch(ports["orchestrator"])
    return texts, {name: (logs / f"{name}.log").read_text() for name in ("server", "language")}


def test_every_series_is_there_before_the_first_request(run: Run) -> None:
    """Of the golden text, all that this process has: its language half, with its caches, is another; no Triton."""
    ours = series(run[0]["fresh"])
    elsewhere = {("cache", "prefix"), ("cache", "pictures")}
    not_here = ("mediround_prompts_in_progress", "mediround_triton_", "mediround_slab_")
    expected = {
        key
        for key in series(GOLDEN.read_text())
        if not key[0].endswith("_info") and not key[1] & elsewhere and not key[0].startswith(not_here)
    }
    assert expected <= ours.keys()
    told = {key for key in ours if key[0].startswith("mediround_") and not key[0].endswith("_info")}
    assert told <= expected
    assert value(ours, "mediround_rounds_total", code="OK", index="0") == 0  # the warm-up is not a round
    assert value(ours, "mediround_expected_work_seconds", work="pass") > 0  # but it was measured


def test_a_run_adds_numbers_and_no_series(run: Run, random_bundle: Bundle) -> None:
    before, after = series(run[0]["fresh"]), series(run[0]["after"])
    mine = [{key for key in found if key[0].startswith("mediround_")} for found in (before, after)]
    assert mine[0] == mine[1]
    assert value(after, "mediround_rounds_total", code="OK", index="1") == 2
    assert value(after, "mediround_rounds_total", code="INVALID_ARGUMENT", index="unknown") == 1
    assert value(after, "mediround_cache_hits_total", cache="uploads") == 2
    assert value(after, "mediround_engine_up", engine="language") == 1
    assert value(after, "mediround_sessions_open") == 0
    assert value(after, "mediround_embeddings_held", place="own") == 2  # the warm-up's is still held
    assert value(after, "mediround_embeddings_leased", place="own") == 0
    assert value(after, "process_resident_memory_bytes") > 1 << 20
    assert value(after, "mediround_engine_info", engine="language", description=DESCRIBED) == 1
    assert value(after, "mediround_build_info", version=version("mediround-serving")) == 1
    manifest = random_bundle.manifest
    model = {"name": manifest.name, "version": manifest.version, "digest": random_bundle.digest[:12]}
    assert value(after, "mediround_model_info", **model) == 1
    assert NAME not in run[0]["after"]


def test_an_engine_that_is_gone_is_told(run: Run) -> None:
    assert engine_up(run[0]["after"])
    assert not engine_up(run[0]["bereft"])
    assert value(series(run[0]["bereft"]), "mediround_engine_up", engine="vision") == 1


DESCRIBED = "grpc/onnxruntime/CPUExecutionProvider"


def test_the_language_server_tells_of_itself(run: Run) -> None:
    found = series(run[0]["language"])
    assert value(found, "mediround_prompts_in_progress") == 0
    assert value(found, "mediround_cache_hits_total", cache="prefix") >= 2
    assert value(found, "mediround_cache_hits_total", cache="pictures") >= 1
    assert value(found, "mediround_cache_misses_total", cache="pictures") >= 2
    assert value(found, "mediround_engine_up", engine="language") == 1
    assert not [key for key in found if key[0] == "mediround_rounds_total"]


def test_prometheus_own_lint_of_the_running_server(run: Run) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    for text in run[0].values():
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text.encode(), capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_the_log_is_one_object_a_line(run: Run) -> None:
    lines = [json.loads(line) for line in run[1]["server"].splitlines()]
    rounds = [line for line in lines if line["logger"] == "serving.rounds"]
    assert [line["code"] for line in rounds] == ["OK"] * 4 + ["INVALID_ARGUMENT"]
    assert {line["priority"] for line in rounds} == {"interactive", "batch"}
    assert all(NAME not in log for log in run[1].values())
    assert run[1]["language"]


def test_a_half_that_is_lost_is_warned_of_once_with_code_and_words(run: Run) -> None:
    lines = [json.loads(line) for line in run[1]["server"].splitlines()]
    warned = [line for line in lines if line["level"] == "WARNING" and "language server" in line["message"]]
    assert len(warned) == 1
    assert "not serving (UNAVAILABLE: " in warned[0]["message"]


def test_a_metrics_address_that_is_taken_is_refused_with_one_line(random_bundle: Bundle, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "server.log"
    flags = ["--metrics-listen", f"127.0.0.1:{port}"]
    second = launched(random_bundle.directory, tmp_path / "second.log", flags)
    with (
        launched(random_bundle.directory, log, flags),
        pytest.raises(LaunchError, match="ended with 2") as caught,
        second,
    ):
        pass
    assert "in use" in str(caught.value)
    assert "Traceback" not in str(caught.value)
