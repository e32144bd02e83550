"""``python -m loadtest``: exit codes, files, and what goes wrong."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.commands import INTERRUPTED, INVALID, MET, MISSED, NOT_RUN
from loadtest.report.model import FILE, PAGE, Report, read
from loadtest.server_process import free_port
from tests.conftest import REPOSITORY
from tests.loadtest.scripted import ScriptedServer
from tests.loadtest.threads import EXPOSED, SCENARIO, beside, exposing, scripted


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text(SCENARIO)
    return path


class Loaded(HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "img", "iframe", "object", "embed", "image"}:
            self.found.append(tag)
        self.found += [
            f"{n}={v}" for n, v in attrs if n.endswith(("src", "href")) and not (v or "").startswith("#")
        ]


def test_a_run_writes_a_report_that_reads_back_and_a_page_that_loads_nothing(
    scenario: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with scripted() as address, exposing(EXPOSED) as metrics:
        code = main(
            ["run", "--target", address, "--scenario", str(scenario), "--out", str(out), "--metrics", metrics]
        )
    assert code == MET
    report = read(out, Report)
    assert report.overall.answered == report.overall.due > 20
    assert report.server is not None
    assert report.server.peaks["process_resident_memory_bytes"] == 1 << 20
    assert report.server.scrapes >= 2
    page = (out / PAGE).read_text()
    loaded = Loaded()
    loaded.feed(page)
    assert loaded.found == []
    assert not re.search(r"url\((?!#)|@import", page)
    assert page.count("<svg") == 4
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "not for clinical use" in page


def test_metrics_of_several_addresses_are_added_and_one_that_fails_is_counted(
    scenario: Path, tmp_path: Path
) -> None:
    reads = iter([EXPOSED.replace("1048576.0", "2097152.0")] * 2)
    with scripted() as address, exposing(EXPOSED) as one, exposing(lambda: next(reads, "<html>")) as other:
        arguments = ["--target", address, "--scenario", str(scenario), "--out", str(tmp_path)]
        assert main(["run", *arguments, "--metrics", one, "--metrics", other]) == MET
    report = read(tmp_path, Report)
    assert report.server is not None
    assert report.server.peaks["process_resident_memory_bytes"] == 3 << 20
    assert report.server.scrapes_failed >= 1
    assert report.server.scrapes >= 3


def test_a_missed_objective_is_status_1(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(delay=0.7) as address:
        code = main(["run", "--target", address, "--scenario", str(scenario), "--out", str(tmp_path / "out")])
    assert code == MISSED
    assert "objective: missed" in capsys.readouterr().out


def test_a_late_load_test_is_status_3(scenario: Path, tmp_path: Path) -> None:
    scenario.write_text(SCENARIO.replace("late = 5.0", "late = 1e-9"))
    with scripted() as address:
        code = main(["run", "--target", address, "--scenario", str(scenario), "--out", str(tmp_path / "out")])
    assert code == INVALID
    assert "the load test" in (tmp_path / "out" / PAGE).read_text()


def test_what_cannot_run_is_status_2_in_one_line(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    file = tmp_path / "file"
    file.write_text("")
    bad = tmp_path / "bad.toml"
    bad.write_text(SCENARIO.replace("rate = 20.0", "rate = 0"))
    long = tmp_path / "long.toml"
    long.write_text(SCENARIO.replace("[1, 2]", "[1, 64]"))
    good = ["--out", str(tmp_path / "out")]
    with scripted() as address:
        cases = [
            (["--target", nobody, "--scenario", str(scenario), *good], "is a server running there"),
            (["--target", address, "--scenario", str(bad), *good], "arrivals.rate"),
            (["--target", address, "--scenario", str(tmp_path / "no.toml"), *good], "No such file"),
            (["--target", address, "--scenario", str(long), *good], "the server takes 32"),
            (["--target", address, "--scenario", str(scenario), "--out", str(file)], str(file)),
            (["--target", address, "--scenario", str(scenario), "--out", str(file / "x")], str(file)),
            (["--target", address, "--scenario", str(scenario), *good, "--metrics", nobody], "--metrics"),
            (["--target", address, "--scenario", str(scenario), *good, "--metrics", "file:///etc/passwd"], "http"),
            (
                ["--target", address, "--scenario", str(scenario), *good, "--tls-ca", str(tmp_path / "no")],
                "No such",
            ),
        ]
        for arguments, said in cases:
            assert main(["run", *arguments]) == NOT_RUN, arguments
            words = capsys.readouterr().err
            assert said in words
            assert "Traceback" not in words
    assert not (tmp_path / "out" / FILE).exists()


def test_metrics_that_are_no_metrics_are_refused(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted() as address:
        for text in ("<html>", "a{b=", "x" * (9 << 20)):
            with exposing(text) as metrics:
                arguments = ["--target", address, "--scenario", str(scenario), "--out", str(tmp_path)]
                assert main(["run", *arguments, "--metrics", metrics]) == NOT_RUN
            assert "--metrics" in capsys.readouterr().err


def test_reports_are_compared_and_bad_ones_refused(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, delay in (("fast", 0.0), ("slow", 0.3)):
        with scripted(delay=delay) as address:
            main(["run", "--target", address, "--scenario", str(scenario), "--out", str(tmp_path / name)])
    fast, slow = str(tmp_path / "fast"), str(tmp_path / "slow")
    assert main(["compare", fast, fast]) == MET
    assert main(["compare", fast, slow]) == MISSED
    assert main(["compare", slow, fast]) == MET
    assert "p50" in capsys.readouterr().out
    (tmp_path / FILE).write_text('{"kind": "run"}')
    assert main(["compare", fast, str(tmp_path)]) == NOT_RUN
    assert "not a report of this version" in capsys.readouterr().err
    assert main(["compare", fast, str(tmp_path / "none")]) == NOT_RUN


def test_an_interrupted_run_is_status_130_and_writes_no_report(scenario: Path, tmp_path: Path) -> None:
    scenario.write_text(SCENARIO.replace("duration = 1.0", "duration = 60.0"))
    server, out = ScriptedServer(), tmp_path / "out"
    # A child keeps ignoring the signal where this process does, as shells have it for work in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with beside(server) as address:
            arguments = ["run", "--target", address, "--scenario", str(scenario), "--out", str(out)]
            command = [sys.executable, "-m", "loadtest", *arguments]
            with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
                until = time.monotonic() + 60
                while server.arrived < 3 and time.monotonic() < until:
                    time.sleep(0.05)
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=30)
    finally:
        signal.signal(signal.SIGINT, before)
    assert server.arrived >= 3
    assert process.returncode == INTERRUPTED == 130
    assert said == "interrupted: no report was written\n"
    assert not list(out.iterdir())
