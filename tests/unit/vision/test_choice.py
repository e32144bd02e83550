"""What runs the image encoder when the settings leave it open: by figures, kept, the same at every start."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from serving.bundle import Bundle
from serving.engines import local_vision, with_encoder
from serving.errors import Unavailable
from serving.runtime import cpus
from serving.runtime.graph import Array, ProviderError
from serving.runtime.record import RuntimeRecord
from serving.runtime.worker import Stop
from serving.settings import Settings
from serving.vision import choice as module
from serving.vision.choice import (
    ONNX,
    OPENVINO,
    SAMPLES,
    Choice,
    choose,
    compare,
    keep,
    measured,
    read,
    recheck,
    trial,
)

NEVER = threading.Event()
FASTER = Choice(OPENVINO, "it is faster", (0.0,) * SAMPLES)


class Fake:
    """An image encoder of one value for all elements."""

    def __init__(self, value: float, seconds: float) -> None:
        self.value, self.seconds = value, seconds
        self.description, self.record = "fake", RuntimeRecord("fake")

    def run_into(self, feeds: Mapping[str, Array], out: Array, stop: Stop) -> None:
        assert feeds["image_u8"].any()
        time.sleep(self.seconds)
        out[...] = self.value


def fails(*_: object) -> None:
    raise ProviderError("no such operator")


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[Choice]:
    """Trials that were made; each chooses OpenVINO."""
    made: list[Choice] = []

    def measures(bundle: Bundle, threads: int, stop: threading.Event) -> Choice:
        made.append(FASTER)
        return FASTER

    monkeypatch.setattr(module, "measured", measures)
    monkeypatch.setattr(module, "checked", lambda bundle, threads, before, stop: before)
    return made


def files(cache: Path) -> list[Path]:
    return list(cache.iterdir())


def test_both_are_tried_in_a_process_of_their_own(random_bundle: Bundle) -> None:
    choice = measured(random_bundle, 2, NEVER)
    assert "s by ONNX Runtime" in choice.reason
    assert choice.encoder in {ONNX, OPENVINO}


def test_a_choice_holds_while_openvino_computes_what_it_was_chosen_for(
    random_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(module, "PAIRS", 1)
    before = trial(random_bundle, 2)
    assert before.encoder == OPENVINO
    assert recheck(random_bundle, 2, before) == before
    other = replace(before, samples=(before.samples[0] + 1e-3, *before.samples[1:]))
    assert recheck(random_bundle, 2, other) == Choice(
        ONNX, "OpenVINO's embedding differs by 1.0e-03, more than 1e-04"
    )
    monkeypatch.setattr(module, "OpenVinoEncoder", fails)
    assert recheck(random_bundle, 2, before) == Choice(ONNX, "it fails: no such operator")


def test_a_choice_that_no_longer_holds_is_made_anew(
    random_bundle: Bundle,
    tmp_path: Path,
    trials: list[Choice],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose(random_bundle, 1, tmp_path, NEVER)
    monkeypatch.setattr(module, "checked", lambda *_: Choice(ONNX, "it fails: no such operator"))
    monkeypatch.setattr(module, "measured", lambda *_: Choice(ONNX, "a runtime fails"))
    assert choose(random_bundle, 1, tmp_path, NEVER) == Choice(ONNX, "a runtime fails")
    assert "but now it fails: no such operator" in caplog.text
    assert [read(place) for place in files(tmp_path)] == [Choice(ONNX, "a runtime fails")]


def test_a_check_that_ends_before_its_time_leaves_the_choice(
    random_bundle: Bundle, tmp_path: Path, trials: list[Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child was killed for want of memory, say: another start may have more."""

    class Dies:
        def __reduce__(self) -> tuple[object, ...]:
            return os._exit, (1,)

    kept = choose(random_bundle, 1, tmp_path, NEVER)
    monkeypatch.setattr(module, "checked", lambda *_: module.apart(Dies(), NEVER))  # type: ignore[arg-type]  # it ends what opens it
    words = "OpenVINO was chosen before, but the trial of OpenVINO ended before its time"
    assert choose(random_bundle, 1, tmp_path, NEVER) == Choice(ONNX, words)
    assert [read(place) for place in files(tmp_path)] == [kept]
    assert len(trials) == 1


def test_a_trial_ends_when_the_server_does(random_bundle: Bundle, tmp_path: Path) -> None:
    class Hangs:
        def __reduce__(self) -> tuple[object, ...]:
            return time.sleep, (600,)

    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(Unavailable):
        measured(Hangs(), 1, stop)  # type: ignore[arg-type]  # what opens it sleeps
    assert not multiprocessing.active_children()


def test_a_trial_that_dies_leaves_onnx_runtime() -> None:
    class Dies:
        def __reduce__(self) -> tuple[object, ...]:
            return os._exit, (1,)

    assert measured(Dies(), 1, NEVER) == Choice(ONNX, "the trial of OpenVINO ended before its time")  # type: ignore[arg-type]  # it ends what opens it


@pytest.mark.parametrize("chosen", [False, True])
def test_a_trial_that_cannot_be_started_is_not_the_cache_s_fault(
    random_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    chosen: bool,
) -> None:
    """No process could be had now: nothing is kept of it, and another start finds out."""

    def refuse(_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(module, "_key", lambda *_: "here")
    if chosen:
        keep(tmp_path / module._name(random_bundle, "here"), FASTER)
    monkeypatch.setattr(multiprocessing.get_context("spawn").Process, "start", refuse)
    words = "the trial of OpenVINO could not be started: Resource temporarily unavailable"
    reason = f"OpenVINO was chosen before, but {words}" if chosen else words
    assert choose(random_bundle, 1, tmp_path, NEVER) == Choice(ONNX, reason)
    [warned] = [each for each in caplog.records if each.levelname == "WARNING"]
    assert warned.getMessage() == f"image encoder: ONNX Runtime, for this start alone: {reason}"
    assert [read(place) for place in files(tmp_path)] == ([FASTER] if chosen else [])


def test_what_openvino_cannot_run_onnx_runtime_does(
    random_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OpenVinoEncoder", fails)
    assert trial(random_bundle, 1) == Choice(ONNX, "a runtime fails: no such operator")


@pytest.mark.parametrize(
    ("value", "seconds", "encoder"),
    [
        (1.00005, 0.0, OPENVINO),
        (1.0002, 0.0, ONNX),  # beyond what golden vectors allow
        (float("nan"), 0.0, ONNX),
        (1.0, 0.04, ONNX),  # as fast, or slower
    ],
)
def test_the_faster_that_computes_the_same(
    random_bundle: Bundle, value: float, seconds: float, encoder: str
) -> None:
    assert compare(random_bundle, Fake(1, 0.02), Fake(value, seconds)).encoder == encoder


def test_a_choice_is_made_once_for_bundle_machine_and_versions(
    random_bundle: Bundle, tmp_path: Path, trials: list[Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "new" / "cache"
    assert [choose(random_bundle, threads, cache, NEVER) for threads in (1, 2)] == [FASTER, FASTER]
    assert (len(trials), len(files(cache))) == (1, 1)
    choose(replace(random_bundle, digest="e" * 64), 1, cache, NEVER)
    monkeypatch.setattr(module, "cpu_model", lambda: "another")
    choose(random_bundle, 1, cache, NEVER)
    monkeypatch.setattr(module, "_version", lambda name: f"another {name}")
    choose(random_bundle, 1, cache, NEVER)
    assert (len(trials), len(files(cache))) == (4, 4)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[" * 4000, "{}", '{"form": 1, "encoder": "onnx", "reason": "y", "samples": ["x"]}', "\xff"],
)
def test_what_cannot_be_read_is_made_anew(
    random_bundle: Bundle, tmp_path: Path, trials: list[Choice], content: str
) -> None:
    choose(random_bundle, 1, tmp_path, NEVER)
    [place] = files(tmp_path)
    place.write_bytes(content.encode("latin-1"))
    assert [choose(random_bundle, 1, tmp_path, NEVER) for _ in range(2)] == [FASTER, FASTER]
    assert (len(trials), files(tmp_path)) == (2, [place])


def test_the_first_to_keep_a_choice_decides_for_both(tmp_path: Path) -> None:
    place = tmp_path / "choice.json"
    assert keep(place, FASTER) == FASTER
    assert keep(place, Choice(ONNX, "measured at the same time")) == FASTER
    assert files(tmp_path) == [place]


def test_a_disk_without_links_keeps_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(module.os, "link", refuse)
    place = tmp_path / "choice.json"
    assert keep(place, FASTER) == FASTER == read(place)
    assert keep(place, Choice(ONNX, "measured at the same time")) == FASTER
    assert files(tmp_path) == [place]


def test_without_a_place_nothing_is_measured(random_bundle: Bundle, tmp_path: Path, trials: list[Choice]) -> None:
    (tmp_path / "file").touch()
    for cache in (None, tmp_path / "file", tmp_path / "file" / "below"):
        choice = choose(random_bundle, 1, cache, NEVER)
        assert choice.encoder == ONNX
        assert "--engines.cache" in choice.reason
    assert trials == []


def test_onnx_runtime_where_openvino_is_not_installed_or_not_for_the_bundle(
    random_bundle: Bundle,
    tmp_path: Path,
    trials: list[Choice],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    halved = random_bundle.manifest.image.model_copy(update={"precision": "fp16"})
    manifest = random_bundle.manifest.model_copy(update={"image": halved})
    assert choose(replace(random_bundle, manifest=manifest), 1, tmp_path, NEVER).encoder == ONNX
    monkeypatch.setattr(module, "_version", lambda _: None)
    assert choose(random_bundle, 1, tmp_path, NEVER) == Choice(ONNX, "OpenVINO is not installed")
    assert trials == []
    assert not caplog.text
    keep(tmp_path / module._name(random_bundle, "before"), FASTER)
    assert choose(random_bundle, 1, tmp_path, NEVER).encoder == ONNX
    assert "chosen before, and is not installed now" in caplog.text


async def test_a_server_runs_what_was_chosen(
    random_bundle: Bundle, tmp_path: Path, trials: list[Choice], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "serving")
    flags = ["--bundle", str(random_bundle.directory), "--engines.cache", str(tmp_path)]
    vision = local_vision(random_bundle, await with_encoder(random_bundle, Settings(_cli_parse_args=flags)))
    assert (vision.encoder.engine, vision.encoder.precision) == ("openvino", "float32")
    assert "image encoder: openvino-f32 (it is faster)" in caplog.text
    for others in (
        ["--engines.encoder", "onnx"],
        ["--vision", "triton://127.0.0.1:1"],
        ["--engines.provider", "cuda"],
    ):
        settings = Settings(_cli_parse_args=[*flags[:2], *others])
        assert await with_encoder(random_bundle, settings) is settings
    await vision.close()


def test_the_model_of_a_cpu(tmp_path: Path) -> None:
    assert cpus.cpu_model(tmp_path) == ""
    (tmp_path / "proc").mkdir()
    lines = "processor\t: {0}\nmodel name\t: Some: CPU\nflags\t\t: fpu avx512f\ncpu MHz\t\t: 24{0}0.0\n\n"
    (tmp_path / "proc/cpuinfo").write_text(lines.format(0) + lines.format(1))
    assert cpus.cpu_model(tmp_path) == "model name: Some: CPU\nflags: fpu avx512f"
