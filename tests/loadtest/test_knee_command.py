"""``python -m loadtest knee``: the knee, what lies beyond it, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.commands import MET, MISSED, NOT_RUN
from loadtest.report.model import FILE, PAGE, KneeReport, Report, ReportError, read
from tests.loadtest.scripted import ScriptedServer
from tests.loadtest.threads import EXPOSED, SCENARIO, beside, exposing, scripted

SINGLE = (
    SCENARIO.replace("[1, 2]", "[1, 1]").replace("within = 0.5", "within = 3.0") + '[calls]\nretry = "count"\n'
)


def test_the_knee_of_a_server_with_one_slot_is_found_and_what_it_does_beyond_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slot of 0.1 s answers 10 rounds a second, however fast the machine; 12 may be there.

    At 16 a second 48 are due and at most 30 + 12 + 1 answered: missed. At 8 all 24 are, even if a slot takes twice
    as long. At 24, of 72 at most 43 are answered again; at least 15 + 12 on a machine that is half as fast.
    """
    monkeypatch.setattr("loadtest.sweep.COOLING", 0.0)
    scenario, out = tmp_path / "single.toml", tmp_path / "out"
    scenario.write_text(SINGLE.replace("duration = 1.0", "duration = 3.0"))
    with scripted(delay=0.1, slots=1, capacity=12) as address:
        arguments = ["--target", address, "--scenario", str(scenario), "--out", str(out)]
        code = main(["knee", *arguments, "--least", "4", "--precision", "0.5", "--goodput", "0.5"])
    assert code == MET
    report = read(out, KneeReport)
    assert [(step.rate, step.result) for step in report.steps] == [(4, "met"), (8, "met"), (16, "missed")]
    assert report.knee is not None
    assert (report.knee.rate, report.knee.goodput) == (8, 8)
    assert report.overload is not None
    assert report.overload.rate == 24
    assert report.goodput_share is not None
    assert (15 + 12) / 24 <= report.goodput_share <= 43 / 24
    assert (report.memory_share, report.most_memory) == (None, 1.5)
    assert all((out / step.folder / PAGE).is_file() for step in (*report.steps, report.overload))
    page = (out / PAGE).read_text()
    assert page.count("<svg") == 2
    assert "not looked at" in page
    assert "not looked at" in capsys.readouterr().out
    with pytest.raises(ReportError):
        read(out, Report)


def test_memory_that_grows_under_overload_is_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server holds a MiB for each round it was ever asked: 4 + 8 (the knee) + 16, then 24 beyond."""
    monkeypatch.setattr("loadtest.sweep.COOLING", 0.0)
    scenario, out = tmp_path / "single.toml", tmp_path / "out"
    scenario.write_text(SINGLE)
    server = ScriptedServer(delay=0.1, slots=1, capacity=3)

    def held() -> str:
        return EXPOSED.replace("1048576.0", str(server.arrived << 20))

    with beside(server) as address, exposing(held) as metrics:
        arguments = ["--target", address, "--scenario", str(scenario), "--out", str(out), "--metrics", metrics]
        code = main(["knee", *arguments, "--least", "4", "--precision", "0.5", "--goodput", "0.5"])
    assert code == MISSED
    report = read(out, KneeReport)
    assert report.knee is not None
    assert report.knee.peak_bytes == 12 << 20
    assert report.memory_share == pytest.approx(52 / 12)
    assert [check.met for check in report.verdict.checks] == [True, True, False]
    assert "433% of the knee" in (out / PAGE).read_text()
    assert "433% of the knee" in capsys.readouterr().out
    kept = json.loads((out / FILE).read_text())
    for added in ("memory_share", "most_memory"):
        del kept[added]
    (tmp_path / FILE).write_text(json.dumps(kept))
    assert read(tmp_path, KneeReport).most_memory is None  # a report from before they were there


def test_a_bound_on_memory_that_nothing_would_measure_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--target", "127.0.0.1:1", "--scenario", str(tmp_path / "absent.toml"), "--memory", "2"]
    assert main(["knee", *arguments]) == NOT_RUN
    assert "--memory must be left out unless --metrics is given" in capsys.readouterr().err
