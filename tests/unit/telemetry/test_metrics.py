"""What is measured: declarations, the text that Prometheus reads, and the numbers behind the status page."""

from __future__ import annotations

import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.stats import (
    CacheStats,
    EmbeddingStats,
    PlacementStats,
    QueueStats,
    SessionStats,
    SlabStats,
    TritonCounts,
)
from serving.telemetry import metrics as telemetry
from serving.telemetry.collector import CacheState, EngineState, LibraryMetrics, StateCollector, StateSources
from serving.telemetry.metric import Metric, MetricKind
from serving.telemetry.metrics import CATALOGUE
from serving.telemetry.recorder import MetricsRecorder
from serving.telemetry.status import WINDOW_SECONDS, StatusBoard, quantile

GOLDEN = Path(__file__).parent.parent.parent / "metrics.txt"
"""What ``/metrics`` says when nothing was asked yet. Rules and dashboards are held to it."""
OPERATIONS = Path(__file__).parent.parent.parent.parent / "docs" / "operations.md"
BEGIN, END = "<!-- metrics -->\n", "<!-- /metrics -->\n"
UNITS = ("_seconds", "_bytes", "_masks", "_tokens")
OBJECTIVES = {0.05, 0.1, 0.15, 0.25, 0.4, 1.0}


def sources(caches: tuple[str, ...] = telemetry.CACHES) -> StateSources:
    """A process that has everything, and in which nothing has happened."""
    plain = (telemetry.PROMPTS, telemetry.SESSIONS, telemetry.SESSIONS_LIMIT, telemetry.SESSION_BYTES)
    return StateSources(
        version="0",
        model={"name": "made-up", "version": "0", "digest": "d" * 12},
        engines={name: EngineState(lambda: "scripted/hash", lambda: True) for name in telemetry.ENGINES},
        caches={name: CacheState(lambda: CacheStats(0, 0, 0, 0), 1) for name in caches},
        queues={name: lambda: QueueStats(0, 0, 0.0, 0.0) for name in telemetry.PRIORITIES},
        expected={work: lambda: 0.0 for work in telemetry.EXPECTED.labels["work"]},
        embeddings=lambda: EmbeddingStats(0, 0, 0, 0),
        slabs=lambda: {name: SlabStats() for name in telemetry.SLABS},
        triton=lambda: TritonCounts(*[0] * 10),
        sessions=SessionStats,
        plain=[(metric, lambda: 0.0) for metric in plain],
    )


def fresh() -> CollectorRegistry:
    disable_created_metrics()
    registry = CollectorRegistry()
    MetricsRecorder(registry)
    registry.register(StateCollector(sources()))
    return registry


def test_the_text_that_prometheus_reads() -> None:
    """Every series is there at once. ``python -m tests.unit.telemetry.test_metrics`` renews it."""
    assert generate_latest(fresh()).decode() == GOLDEN.read_text()


def table() -> str:
    """The declarations, as docs/operations.md has them."""
    lines = ["| metric | kind | labels | what |", "|---|---|---|---|"]
    for metric in CATALOGUE:
        name = metric.name + ("_total" if metric.kind is MetricKind.COUNTER else "")
        labels = "; ".join(f"{label}: {', '.join(found) or 'one text'}" for label, found in metric.labels.items())
        lines.append(f"| `{name}` | {metric.kind.value} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


def documented() -> str:
    """docs/operations.md with the table as it should be."""
    before, _, rest = OPERATIONS.read_text().partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def test_the_documentation_has_every_metric() -> None:
    assert OPERATIONS.read_text() == documented()


def test_every_metric_is_in_the_catalogue_and_in_the_text() -> None:
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE) > 30
    families = {family.name: family for family in text_string_to_metric_families(GOLDEN.read_text())}
    assert families.keys() == {metric.name for metric in CATALOGUE}
    for metric in CATALOGUE:
        assert families[metric.name].type == metric.kind.value
        assert families[metric.name].documentation == metric.help


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_names_say_what_they_count(metric: Metric) -> None:
    assert metric.name.startswith("mediround_")
    assert not metric.name.endswith("_total")
    assert not metric.unit or metric.name.endswith(f"_{metric.unit}")
    assert not metric.name.endswith(UNITS) or metric.unit
    assert metric.help.endswith(".") or metric.name.endswith("_info")
    assert bool(metric.buckets) == (metric.kind is MetricKind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_latency_objectives_are_edges() -> None:
    for metric in (telemetry.STAGE_SECONDS, telemetry.ROUND_SECONDS):
        assert set(metric.buckets) >= OBJECTIVES


def test_prometheus_own_lint_finds_nothing() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    lint = [promtool, "check", "metrics"]
    checked = subprocess.run(lint, input=GOLDEN.read_bytes(), capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
    wrong = GOLDEN.read_bytes().replace(b"mediround_rounds_total", b"mediround_rounds")
    assert subprocess.run(lint, input=wrong, capture_output=True, check=False).returncode != 0


def test_what_a_library_measures_beside() -> None:
    library = CollectorRegistry()
    Histogram("vllm:e2e", "theirs", registry=library)
    Histogram("process_like", "not theirs", registry=library)
    assert [family.name for family in LibraryMetrics(("vllm:",), library).collect()] == ["vllm:e2e"]
    assert not list(LibraryMetrics((), library).collect())


def told(asked: StateSources) -> dict[str, float]:
    """By name and labels' values."""
    return {
        " ".join([sample.name.removeprefix("mediround_"), *sample.labels.values()]): sample.value
        for family in StateCollector(asked).collect()
        for sample in family.samples
    }


def test_queues_caches_engines_and_sessions() -> None:
    """Each number in its own series: no two are alike."""
    asked = StateSources(
        version="1.2.3",
        model={"name": "made-up", "version": "4", "digest": "d" * 12},
        engines={
            "language": EngineState(lambda: "words", lambda: True),
            "vision": EngineState(lambda: "masks", lambda: False),
        },
        caches={
            "embedding": CacheState(lambda: CacheStats(1, 2, 3, 4), 5),
            "prefix": CacheState(lambda: CacheStats(6, 7, 8, 9), 10),
        },
        queues={
            "interactive": lambda: QueueStats(11, 12, 13.0, 14.0),
            "batch": lambda: QueueStats(15, 16, 17.0, 18.0),
        },
        expected={"encode": lambda: 19.0, "pass": lambda: 20.0, "mask": lambda: 21.0},
        plain=[(telemetry.SESSIONS, lambda: 22.0), (telemetry.SESSION_BYTES, lambda: 23.0)],
        sessions=lambda: SessionStats(24, 25, 26, 27),
        store_limit_bytes=28,
    )
    assert told(asked) == {
        "build_info 1.2.3": 1,
        f"model_info made-up 4 {'d' * 12}": 1,
        "engine_up language": 1,
        "engine_up vision": 0,
        "engine_info language words": 1,
        "engine_info vision masks": 1,
        "requests_in_progress interactive": 11,
        "queue_requests interactive": 12,
        "queue_cost_seconds interactive": 13,
        "queue_age_seconds interactive": 14,
        "requests_in_progress batch": 15,
        "queue_requests batch": 16,
        "queue_cost_seconds batch": 17,
        "queue_age_seconds batch": 18,
        "expected_work_seconds encode": 19,
        "expected_work_seconds pass": 20,
        "expected_work_seconds mask": 21,
        "cache_hits_total embedding": 1,
        "cache_misses_total embedding": 2,
        "cache_evictions_total embedding": 3,
        "cache_bytes embedding": 4,
        "cache_limit_bytes embedding": 5,
        "cache_hits_total prefix": 6,
        "cache_misses_total prefix": 7,
        "cache_evictions_total prefix": 8,
        "cache_bytes prefix": 9,
        "cache_limit_bytes prefix": 10,
        "sessions_open": 22,
        "session_bytes": 23,
        "sessions_kept open": 24,
        "sessions_kept parked": 25,
        "sessions_gave_way_total": 26,
        "store_bytes": 27,
        "store_limit_bytes": 28,
    }


def test_where_embeddings_lie_and_what_triton_was_asked() -> None:
    """Each number in its own series: no two are alike."""
    asked = replace(
        sources(),
        embeddings=lambda: EmbeddingStats(
            0, 0, 0, 0, PlacementStats(1, 2), PlacementStats(3, 4), allocated=5, moved=6
        ),
        slabs=lambda: {"embeddings": SlabStats(7, 8, 9), "masks": SlabStats(10, 11, 12)},
        triton=lambda: TritonCounts(
            encodes=33,
            decodes=55,
            masks=0,
            encodes_by_value=20,
            decodes_by_value=40,
            bytes_sent=16,
            bytes_received=17,
            retries=18,
            handshakes=19,
            mappings=21,
        ),
    )
    found = told(asked)
    assert {name: value for name, value in found.items() if name.startswith(("embeddings", "slab", "triton"))} == {
        "embeddings_held own": 1,
        "embeddings_leased own": 2,
        "embeddings_held shared": 3,
        "embeddings_leased shared": 4,
        "embeddings_outside_total allocated": 5,
        "embeddings_outside_total moved": 6,
        "slab_slots embeddings free": 7,
        "slab_slots embeddings taken": 8,
        "slab_slots embeddings withheld": 9,
        "slab_slots masks free": 10,
        "slab_slots masks taken": 11,
        "slab_slots masks withheld": 12,
        "triton_calls_total encode shared": 13,
        "triton_calls_total encode grpc": 20,
        "triton_calls_total decode shared": 15,
        "triton_calls_total decode grpc": 40,
        "triton_tensor_bytes_total sent": 16,
        "triton_tensor_bytes_total received": 17,
        "triton_retries_total": 18,
        "triton_handshakes_total": 19,
        "triton_mappings_total": 21,
    }


def test_what_a_process_does_not_have_it_does_not_tell() -> None:
    """Without Triton, no slots and no calls of it; a language server holds no embeddings."""
    alone = replace(sources(), slabs=dict, triton=None)
    names = {family.name for family in StateCollector(alone).collect()}
    assert "mediround_embeddings_held" in names
    assert not [name for name in names if "triton" in name or "slab" in name]
    assert not [f for f in StateCollector(replace(alone, embeddings=None)).collect() if "embeddings" in f.name]


@pytest.mark.parametrize("index", [None, 0, 4, 5, 10**9])
def test_an_index_is_one_of_few(index: int | None) -> None:
    expected = {None: "unknown", 0: "0", 4: "4", 5: "5+", 10**9: "5+"}
    assert telemetry.index_label(index) == expected[index]


@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_a_percentile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    edges = [*telemetry.SECONDS, math.inf]
    found = quantile(share, [(edge, sum(value <= edge for value in values)) for edge in edges])
    true = sorted(values)[math.ceil(share * len(values)) - 1]
    low, high = max((e for e in [0.0, *edges] if e < true), default=0.0), min(e for e in edges if e >= true)
    assert found is not None
    assert low <= found <= high


def test_percentiles_at_the_ends() -> None:
    assert quantile(0.5, []) is None
    assert quantile(0.5, [(1.0, 0.0), (math.inf, 0.0)]) is None
    assert quantile(0.5, [(1.0, 10.0), (math.inf, 10.0)]) == 0.5
    assert quantile(0.99, [(1.0, 1.0), (2.0, 1.0), (math.inf, 100.0)]) == 2.0  # beyond the last edge


def test_the_board_tells_of_the_last_minute() -> None:
    registry, now = fresh(), [0.0]
    board = StatusBoard(registry, lambda: now[0])
    rounds = registry._names_to_collectors["mediround_rounds"]
    rounds.labels("OK", "0").inc(100)
    now[0] = 10.0
    assert board.look()["rounds"]["OK"] == pytest.approx(10.0)
    for second in range(11, 100):  # somebody looks every second; nothing happens but now and then
        now[0] = float(second)
        rounds.labels("OK", "1").inc(2)
        state = board.look()
    assert state["window_seconds"] == pytest.approx(WINDOW_SECONDS, abs=1.0)
    assert state["rounds"]["OK"] == pytest.approx(2.0, rel=0.02)
    assert len(board._looks) <= WINDOW_SECONDS + 2


@pytest.mark.parametrize(("code", "failing"), [("CANCELLED", False), ("INTERNAL", True), ("UNAVAILABLE", True)])
def test_what_callers_do_is_no_failure_of_the_server(code: str, *, failing: bool) -> None:
    registry = fresh()
    registry._names_to_collectors["mediround_rounds"].labels(code, "0").inc()
    assert (StatusBoard(registry, lambda: 1.0).look()["failing"] > 0) == failing


def test_a_board_without_anything_to_tell() -> None:
    state = StatusBoard(fresh(), lambda: 0.0).look()
    assert {stage["p99"] for stage in state["stages"]} == {None}
    assert state["masks"]["corrected"] is None
    assert {engine["engine"]: engine["up"] for engine in state["engines"]} == {"language": True, "vision": True}


if __name__ == "__main__":
    GOLDEN.write_bytes(generate_latest(fresh()))
    OPERATIONS.write_text(documented())
