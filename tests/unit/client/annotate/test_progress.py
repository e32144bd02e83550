"""What is told of a run: lines, a bar, a file for Prometheus."""

import io
import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from mediround.annotate import progress as module
from mediround.annotate.engines.interface import STOPPED_BY_SIGNAL, Progress
from mediround.annotate.errors import JobError
from mediround.annotate.progress import Form, Rate, exposition, line, seconds_left, shown, summary

HALF = Progress(total=100, done=50, failed=4, here=40, in_flight=8, rounds=120)


def samples_of(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def test_a_rate_is_of_the_last_minute() -> None:
    now = [0.0]
    rate = Rate(lambda: now[0])
    assert rate.items_a_second(Progress(100, 0, 0, 0, 0)) == 0
    now[0] = 10.0
    assert rate.items_a_second(HALF) == 4
    now[0] = 71.0  # nothing since
    assert rate.items_a_second(HALF) == 0
    assert (seconds_left(HALF, 5), seconds_left(HALF, 0)) == (10, None)
    assert seconds_left(Progress(1, 1, 0, 0, 0), 0) == 0


@pytest.mark.parametrize("form", ["json", "bar", "none"])
def test_the_end_is_told(form: Form, tmp_path: Path) -> None:
    stream, file = io.StringIO(), tmp_path / "batch.prom"
    with shown(form, "ab" * 32, metrics=file, stream=stream) as watch:
        assert "mediround_annotate_running{" in file.read_text()
        watch(HALF)
    said = stream.getvalue()
    if form == "json":
        assert json.loads(said.splitlines()[-1])["done"] == 50
    else:
        assert ("50/100" in said and "4 failed" in said) == (form == "bar")
    assert [path.name for path in tmp_path.iterdir()] == ["batch.prom"]
    samples = {
        s.name: s.value for family in text_string_to_metric_families(file.read_text()) for s in family.samples
    }
    assert samples["mediround_annotate_running"] == 0
    assert samples["mediround_annotate_finished_total"] == 40


def test_a_run_that_stands_still_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_A_LINE", 1.0)
    written, stream = [], io.StringIO()
    stream.write = lambda text: written.append(text) or len(text)  # type: ignore[method-assign,func-returns-value]
    with shown("json", "ab" * 32, stream=stream) as watch:
        watch(Progress(2, 1, 0, 1, 1, waiting="window"))
        while not written:
            pass
    assert json.loads(written[0])["waiting"] == "window"


def test_a_file_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobError), shown("none", "ab" * 32, metrics=tmp_path / "file" / "batch.prom"):
        pass


@pytest.mark.parametrize(
    ("stopped", "reason"),
    [
        ("", "finished"),
        (STOPPED_BY_SIGNAL, "signal"),
        ("3 items failed", "failures"),
        (JobError("full"), "error"),
        (KeyboardInterrupt(), "signal"),
    ],
)
def test_why_a_run_ended_is_kept_for_prometheus(stopped: str | BaseException, reason: str, tmp_path: Path) -> None:
    file, began = tmp_path / "batch.prom", time.time()
    with suppress(JobError, KeyboardInterrupt), shown("none", "ab" * 32, metrics=file) as watch:
        assert not [
            sample for sample in samples_of(file.read_text()) if "reason" in sample.labels and sample.value
        ]
        if isinstance(stopped, BaseException):
            raise stopped
        watch.ended(stopped)
    samples = {(s.name, s.labels.get("reason")): s.value for s in samples_of(file.read_text())}
    ended = [why for (name, why), value in samples.items() if name == "mediround_annotate_ended" and value]
    assert ended == [reason]
    assert samples["mediround_annotate_written_timestamp_seconds", None] >= round(began)


def test_numbers_in_words_and_for_machines() -> None:
    assert summary(HALF, 0.5) == "0.5 items/s, 1 min left, 4 failed"
    assert summary(Progress(9000, 0, 0, 0, 0, waiting="service"), 0.01) == (
        "0.01 items/s, 10 days left, 0 failed, waits: service"
    )
    assert json.loads(line(HALF, 0))["seconds_left"] is None
    families = {
        f.name: f for f in text_string_to_metric_families(exposition(HALF, "ab" * 32, "0-of-4", running=True))
    }
    states = {s.labels["state"]: s.value for s in families["mediround_annotate_items"].samples}
    assert states == {"ok": 46, "failed": 4, "left": 50}
    assert all(s.labels["shard"] == "0-of-4" for f in families.values() for s in f.samples)
