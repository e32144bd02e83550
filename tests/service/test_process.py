"""``python -m serving`` as a process: golden dialogues through the wire, starting, refusing to start, draining."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exporters.compare.golden import read_golden
from loadtest.server_process import Launched, launched
from mediround import Client, MediRoundError, Round
from mediround.evaluate import evaluate
from serving.bundle import Bundle

START_FAILED = 2


@pytest.fixture(scope="module", params=["one process", "language server"])
def golden_server(
    request: pytest.FixtureRequest, golden_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launched]:
    bundle, logs, flags = golden_bundle.directory, tmp_path_factory.mktemp("golden"), []
    with ExitStack() as stack:
        if request.param == "language server":
            language = stack.enter_context(launched(bundle, logs / "language.log", module="serving.llm"))
            flags = ["--language", f"grpc://{language.address}"]
        yield stack.enter_context(launched(bundle, logs / "server.log", flags))


def test_golden_dialogues_through_the_running_server(golden_server: Launched, golden_directory: Path) -> None:
    compared = 0
    with Client(golden_server.address) as client:
        for dialogue in read_golden(golden_directory):
            rounds = [Round(q.text, refer_to=q.refer_to, answer=q.answer) for q in dialogue.questions]
            results = client.segment(dialogue.rgb, rounds, correction="referenced")
            for expected, result in zip(dialogue.rounds, results, strict=True):
                assert result.mask is not None
                assert np.mean(result.mask != expected.mask) <= 1e-4
                if expected.score is not None:
                    assert result.score == pytest.approx(expected.score, abs=1e-4)
                compared += 1
    assert compared == 20


def test_the_published_evaluation_is_reproduced(
    golden_server: Launched, golden_directory: Path, tmp_path: Path
) -> None:
    """Metrics worked out here from the recorded masks equal the report, overall and by round index."""
    root = golden_directory / "dataset"
    report = evaluate(golden_server.address, root / "dialogues.json", root, tmp_path / "out")
    assert not report.failures
    scored = []  # (round, intersection, sum of areas)
    items = json.loads((root / "dialogues.json").read_text())
    for dialogue, item in zip(read_golden(golden_directory), items, strict=True):
        targets = re.findall(r"\[MASK-DECODE:([^]]*)\]", json.dumps(item))
        for number, (expected, target) in enumerate(zip(dialogue.rounds, targets, strict=True)):
            white = np.asarray(Image.open(root / target).convert("L")) > 127
            areas = int(expected.mask.sum()) + int(white.sum())
            scored.append((number, int((expected.mask & white).sum()), areas))
    assert len(scored) == 20
    for index, figures in [(None, report.overall), *enumerate(report.by_round)]:
        chosen = [(i, areas) for number, i, areas in scored if index in {None, number}]
        assert figures is not None
        assert figures.rounds == len(chosen)
        # Three pixels of all masks differ from the recording (README.md).
        assert figures.giou == pytest.approx(np.mean([i / (areas - i + 1e-5) for i, areas in chosen]), abs=1e-5)
        assert figures.dice == pytest.approx(np.mean([2 * i / (areas + 1e-6) for i, areas in chosen]), abs=1e-5)
        unions = sum(areas - i for i, areas in chosen)
        assert figures.ciou == pytest.approx(sum(i for i, _ in chosen) / unions, abs=1e-5)
    corrected = sum(
        e.score is not None and e.score <= 0.6 for d in read_golden(golden_directory) for e in d.rounds
    )
    assert report.overall is not None
    assert report.overall.corrected == corrected > 0


def test_live_rounds_equal_the_dialogue_known_in_advance(golden_server: Launched, golden_directory: Path) -> None:
    dialogue = list(read_golden(golden_directory))[2]
    rounds = [Round(q.text, refer_to=q.refer_to, answer=q.answer) for q in dialogue.questions]
    with Client(golden_server.address) as client, client.open(dialogue.rgb) as session:
        known = list(client.segment(dialogue.rgb, rounds, correction="always"))
        live = [session.ask(r.question, refer_to=r.refer_to, answer=r.answer) for r in rounds]
    assert known[-1].cache.wave == 1
    for ahead, asked in zip(known, live, strict=True):
        assert asked.score == pytest.approx(ahead.score, abs=1e-4)
        assert np.mean(asked.mask != ahead.mask) <= 1e-4


def start(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", "--listen", "127.0.0.1:0", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_damaged_bundle_is_refused_with_one_line(random_bundle: Bundle, tmp_path: Path) -> None:
    damaged = tmp_path / "bundle"
    shutil.copytree(random_bundle.directory, damaged)
    with (damaged / "mask_decoder.onnx").open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"\0\1\2\3")
    (damaged / "tokenizer.model").unlink()
    ended = start("--bundle", str(damaged))
    assert ended.returncode == START_FAILED
    assert "mask_decoder.onnx: SHA-256" in ended.stderr
    assert "tokenizer.model: missing" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_provider_that_is_not_there_is_refused(random_bundle: Bundle) -> None:
    ended = start("--bundle", str(random_bundle.directory), "--engines.provider", "cuda")
    assert ended.returncode == START_FAILED
    assert "has no CUDAExecutionProvider here" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_open_bind_is_refused(random_bundle: Bundle) -> None:
    ended = start("--bundle", str(random_bundle.directory), "--listen", "0.0.0.0:0")
    assert ended.returncode == START_FAILED
    assert "--allow-insecure-bind" in ended.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--limits.max-session-bytes", "1000"], "hold all the memory"),
        (["--engines.embedding-bytes", "1000"], "embedding"),
    ],
)
def test_limits_too_small_to_serve_are_refused_with_one_line(
    random_bundle: Bundle, flags: list[str], words: str
) -> None:
    ended = start("--bundle", str(random_bundle.directory), *flags)
    assert ended.returncode == START_FAILED
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_names_in_an_image_stay_out_of_the_log(random_bundle: Bundle, tmp_path: Path) -> None:
    """Not even a log that tells everything tells what a file's tags say; and one round is a session's most."""
    log, tagged = tmp_path / "server.log", tmp_path / "tagged.tiff"
    image = Image.fromarray(np.random.default_rng(0).integers(1, 256, (64, 64, 3), np.uint8))
    image.save(tagged, tiffinfo={270: "Doe^Jane"})  # ImageDescription
    flags = ["--log-level", "debug", "--limits.max-rounds", "1"]
    with (
        launched(random_bundle.directory, log, flags) as server,
        Client(server.address) as client,
        client.open(tagged) as session,
    ):
        assert session.ask("Where?", mode="forced").index == 0
    assert "serving" in log.read_text()
    assert "Doe" not in log.read_text()


def test_sigterm_drains(random_bundle: Bundle, tmp_path: Path) -> None:
    """A round in flight is answered; then the process ends well."""
    log = tmp_path / "server.log"
    with launched(random_bundle.directory, log) as server, Client(server.address) as client:
        image = np.random.default_rng(0).integers(1, 256, (64, 64, 3), np.uint8)
        results = client.segment(image, [Round("Where?", mode="forced"), Round("And?", refer_to=0, mode="forced")])
        first = next(results)
        subprocess.run(["kill", f"-{signal.SIGTERM.value}", str(server.pid)], check=True)
        assert [first.index, *(result.index for result in results)] == [0, 1]
        deadline = time.monotonic() + 20
        while Path(f"/proc/{server.pid}/status").exists() and "State:\tZ" not in status(server.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(MediRoundError):
            client.describe(timeout=5)
    assert "draining" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_stop_ends_the_trial_of_encoders(random_bundle: Bundle, tmp_path: Path) -> None:
    """Sent to all, as a terminal does it: what was not measured to its end is not kept."""
    pytest.importorskip("openvino")
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "serving", "--bundle", str(random_bundle.directory)]
    flags = ["--listen", "127.0.0.1:0", "--engines.cache", str(cache)]
    with subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True, start_new_session=True) as server:
        deadline = time.monotonic() + 30
        while not (trials := [pid for pid in children(server.pid) if b"spawn_main" in command_line(pid)]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for pid in trials:
            os.kill(pid, signal.SIGSTOP)  # or it might be at its end by now
        os.killpg(server.pid, signal.SIGINT)
        _, log = server.communicate(timeout=20)  # until nobody has its stderr: the trial's process did, too
    assert server.returncode == 0
    assert "Traceback" not in log
    assert [kept.read_text() for kept in cache.iterdir()] == []


def children(pid: int) -> list[int]:
    """Of all its threads."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in found for child in thread.read_text().split()]


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()
