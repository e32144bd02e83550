"""What benchmarks conclude from what they measured."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import __main__ as protocol
from benchmarks import knee, telemetry
from benchmarks.workload import Case
from loadtest.report.model import KneeReport
from loadtest.server_process import Launched
from mediround import Client

CASE = Case("star", 10, 4)


def test_nobody_scrapes_while_the_server_without_metrics_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    off, on = Client("127.0.0.1:1"), Client("127.0.0.1:2")
    watched, seen = [False], []

    @contextmanager
    def watching() -> Iterator[None]:
        watched[0] = True
        yield
        watched[0] = False

    def rate(client: Client, asked: Case) -> float:
        seen.append((client is on, watched[0]))
        return 9.0 if client is on else 10.0

    monkeypatch.setattr(telemetry, "rate", rate)
    with off, on:
        assert telemetry.ratios(off, on, CASE, 2, watching) == [0.9, 0.9]
    warm, measured = seen[:2], seen[2:]
    assert [is_on for is_on, _ in warm] == [False, True]
    assert measured == [(False, False), (True, True), (True, True), (False, False)] * 2


@pytest.mark.parametrize(("median", "said"), [(0.97, "0.97: met"), (0.969, "0.97: MISSED")])
def test_the_cost_of_metrics_is_judged(median: float, said: str) -> None:
    assert said in telemetry.report([0.9, median, 1.0], CASE, Path("models/some"))


def test_without_a_knee_there_is_nothing_to_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    @contextmanager
    def stack(*arguments: object, **options: object) -> Iterator[Launched]:
        with subprocess.Popen(["true"]) as process:
            yield Launched("127.0.0.1:1", process)

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(knee, "stack", stack)
    monkeypatch.setattr("benchmarks.knee.subprocess.run", run)
    monkeypatch.setattr(knee, "read", lambda path, form: KneeReport.model_construct(knee=None))
    arguments = ["knee", "--out", str(tmp_path), "--engine", "onnx", "--profile", "py-spy"]
    monkeypatch.setattr("sys.argv", arguments)
    assert knee.main() == 1
    assert "no knee was found" in capsys.readouterr().err
    (command,) = asked
    assert command.count("--metrics") == 2  # the language server's, too


@pytest.mark.parametrize(("concurrency", "said"), [(1, True), (8, False)])
def test_what_a_round_alone_costs_is_said_where_one_was_alone(concurrency: int, said: bool) -> None:
    row = protocol.Row(
        "star of 5", concurrency, 1.0, 4.0, 4.0, 0.9, 0.9, (5, 5, 2), (5, 1, 1), 1.8, 4.4, 600.0, 2300.0
    )
    options = argparse.Namespace(threads=2, repeats=1)
    text = protocol.report([row], Path("models/some"), options)
    assert ("p50 1.80 ms in the server, 4.40 ms as its caller" in text) is said
    assert "service 2300 MiB" in text
