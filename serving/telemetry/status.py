"""Status board: the state of the server as one JSON object, computed from the registry that Prometheus reads.

Rates and percentiles are of the last minute, or of the time since the last look before it; the first look sees all
time since the start. Knows metrics by their declarations. Does not know how the object is shown (``status.html``).
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.registry import Collector

from serving.telemetry import metrics as t
from serving.telemetry.metric import Metric

WINDOW_SECONDS = 60.0
_LOOK_SECONDS = 1.0
"""Looks that follow one another faster are not kept, so that the window's history stays short."""
QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))

_NOT_OURS = frozenset(
    {"OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ABORTED", "DEADLINE_EXCEEDED"}
)
"""Codes of rounds that were answered, or that ended by what their callers did or allowed."""

Labels = frozenset[tuple[str, str]]
Values = Mapping[str, Mapping[Labels, float]]


def read(registry: Collector) -> Values:
    """Every sample, by name and labels."""
    values: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
    for family in registry.collect():
        for sample in family.samples:
            values[sample.name][frozenset(sample.labels.items())] = sample.value
    return values


def quantile(share: float, buckets: Iterable[tuple[float, float]]) -> float | None:
    """The value that ``share`` of the observations do not exceed; None without any.

    Args:
        buckets: (upper edge, observations up to it), in any order, infinity among them.

    Linear within a bucket, as Prometheus has it; of what lies beyond the last edge, that edge.
    """
    ordered = sorted(buckets)
    total = ordered[-1][1] if ordered else 0.0
    if not total:
        return None
    low, below = 0.0, 0.0
    for edge, count in ordered:
        if count >= share * total and count > below:
            if math.isinf(edge):
                return low
            return low + (edge - low) * (share * total - below) / (count - below)
        low, below = edge, count
    return low


@dataclass(frozen=True, slots=True)
class _Span:
    """What changed between two readings."""

    now: Values
    before: Values
    seconds: float

    def value(self, metric: Metric, **labels: str) -> float:
        return self.now.get(metric.name, {}).get(frozenset(labels.items()), 0.0)

    def risen(self, metric: Metric, suffix: str = "_total", **labels: str) -> float:
        """Increase of all series that have these labels."""
        name, wanted = metric.name + suffix, labels.items()
        before = self.before.get(name, {})
        series = self.now.get(name, {}).items()
        return sum(value - before.get(key, 0.0) for key, value in series if wanted <= key)

    def rate(self, metric: Metric, **labels: str) -> float:
        return self.risen(metric, **labels) / self.seconds

    def latency(self, metric: Metric, **labels: str) -> dict[str, float | None]:
        edges = [*metric.buckets, math.inf]
        buckets = [(edge, self.risen(metric, "_bucket", le=_edge(edge), **labels)) for edge in edges]
        return {"count": buckets[-1][1], **{name: quantile(share, buckets) for name, share in QUANTILES}}

    def only_labels(self, metric: Metric) -> list[dict[str, str]]:
        return [dict(labels) for labels in self.now.get(metric.name, {})]


class StatusBoard:
    """Each look shows what changed since the look of about a minute ago."""

    def __init__(self, registry: Collector, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds, never backwards."""
        self._registry, self._clock = registry, clock
        self._looks: deque[tuple[float, Values]] = deque([(clock(), {})])

    def look(self) -> dict[str, Any]:
        """An object for ``json.dumps``."""
        now, values = self._clock(), read(self._registry)
        while len(self._looks) > 1 and self._looks[1][0] <= now - WINDOW_SECONDS:
            self._looks.popleft()
        since, before = self._looks[0]
        if now - self._looks[-1][0] >= _LOOK_SECONDS:
            self._looks.append((now, values))
        return _state(_Span(values, before, max(now - since, 1e-3)))


def _state(span: _Span) -> dict[str, Any]:
    return {
        "window_seconds": span.seconds,
        "model": next(iter(span.only_labels(t.MODEL_INFO)), {}),
        "build": next(iter(span.only_labels(t.BUILD_INFO)), {}),
        "engines": [
            {**labels, "up": span.value(t.ENGINE_UP, engine=labels["engine"]) > 0}
            for labels in span.only_labels(t.ENGINE_INFO)
        ],
        "sessions": {
            "open": span.value(t.SESSIONS),
            "limit": span.value(t.SESSIONS_LIMIT),
            "bytes": span.value(t.SESSION_BYTES),
        },
        "rounds": {code: span.rate(t.ROUNDS, code=code) for code in t.CODES},
        "failing": sum(span.rate(t.ROUNDS, code=code) for code in t.CODES if code not in _NOT_OURS),
        "shed": {reason: span.rate(t.SHED, reason=reason) for reason in t.SHED.labels["reason"]},
        "queues": [_queue(span, priority) for priority in t.PRIORITIES],
        "stages": [
            {"stage": stage, **span.latency(t.STAGE_SECONDS, stage=stage)}
            for stage in t.STAGE_SECONDS.labels["stage"]
        ],
        "latency": [{"round": index, **span.latency(t.ROUND_SECONDS, index=index)} for index in t.INDICES],
        "caches": [_cache(span, labels["cache"]) for labels in span.only_labels(t.CACHE_BYTES)],
        "tokens": {source: span.rate(t.PROMPT_TOKENS, source=source) for source in ("cached", "computed")},
        "masks": _masks(span),
    }


def _queue(span: _Span, priority: str) -> dict[str, Any]:
    return {
        "priority": priority,
        "in_progress": span.value(t.IN_PROGRESS, priority=priority),
        "waiting": span.value(t.QUEUE_REQUESTS, priority=priority),
        "age": span.value(t.QUEUE_AGE, priority=priority),
    }


def _cache(span: _Span, cache: str) -> dict[str, Any]:
    return {
        "cache": cache,
        "hits": span.risen(t.CACHE_HITS, cache=cache),
        "misses": span.risen(t.CACHE_MISSES, cache=cache),
        "evictions": span.risen(t.CACHE_EVICTIONS, cache=cache),
        "bytes": span.value(t.CACHE_BYTES, cache=cache),
        "limit_bytes": span.value(t.CACHE_LIMIT, cache=cache),
    }


def _masks(span: _Span) -> dict[str, float | None]:
    """Shares of the window's masks, and of its answers."""
    scored = span.risen(t.SCORE, "_count")
    masks = span.risen(t.BATCH_MASKS, "_sum")
    answers = masks + span.risen(t.NO_MASK)
    return {
        "count": masks,
        "mean_score": _share(span.risen(t.SCORE, "_sum"), scored),
        "corrected": _share(span.risen(t.CORRECTED), span.risen(t.CORRECTABLE)),
        "near_threshold": _share(span.risen(t.NEAR_THRESHOLD), scored),
        "empty": _share(span.risen(t.EMPTY), masks),
        "without_mask": _share(span.risen(t.NO_MASK), answers),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _edge(edge: float) -> str:
    return "+Inf" if math.isinf(edge) else str(edge)
