"""The load test against a real server on a small bundle: every kind of scenario, end to end."""

from __future__ import annotations

from pathlib import Path

from loadtest.__main__ import main
from loadtest.commands import MET
from loadtest.report.model import Report, read
from loadtest.server_process import free_port, launched
from serving.bundle import Bundle

SCENARIO = """
name = "short"
[arrivals]
rate = 3.0
warm_up = 0.5
duration = 3.0
[dialogues]
mode = "{mode}"
rounds = [2, 4]
think = 0.2
shapes = {{ chain = 1, star = 1, none = 1, mixed = 1 }}
[images]
size = [64, 64]
encoding = "png"
reuse = 0.5
[calls]
cancel_share = 0.1
cancel_after = 0.005
[objective]
answered = 1.0
[generator]
late = 10.0
"""
"""A test machine is busy: lateness is judged elsewhere."""


def test_live_and_known_dialogues_are_all_answered(random_bundle: Bundle, tmp_path: Path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    flags = ["--metrics-listen", metrics]
    with launched(random_bundle.directory, tmp_path / "server.log", flags) as server:
        for seed, mode in enumerate(("live", "known")):  # a warm server would know the images of one seed
            scenario, out = tmp_path / f"{mode}.toml", tmp_path / mode
            scenario.write_text(SCENARIO.format(mode=mode))
            arguments = ["--target", server.address, "--scenario", str(scenario), "--out", str(out)]
            code = main(["run", *arguments, "--seed", str(seed), "--metrics", metrics])
            report = read(out, Report)
            assert code == MET, report.outcomes
            assert set(report.outcomes) <= {"answered", "cancelled"}
            assert report.overall.answered > 5
            assert 0 < report.seen.embedding_hits <= report.overall.answered
            assert report.seen.cached_tokens > 0
            assert report.server is not None
            assert report.server.missing == ()
            assert {cache.name for cache in report.server.caches} >= {"embedding", "prefix"}
            assert report.server.stages["language"] > 0
            assert report.target.model_digest == random_bundle.digest
