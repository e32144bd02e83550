"""Prometheus collector of current state (queues, caches, engines), read at scrape time.

Knows which number of which owner is which metric of ``serving.telemetry.metrics``. Owners are given as functions,
so that this module knows no store, engine or queue. Reads on the event loop, where their numbers agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.stats import CacheStats, EmbeddingStats, QueueStats, SessionStats, SlabStats, TritonCounts
from serving.telemetry import metrics as t
from serving.telemetry import store_metrics as store
from serving.telemetry.metric import Metric

Labels = TypeVar("Labels", bound=str | tuple[str, ...])
"""The value of a metric's label, or of all its labels."""


@dataclass(frozen=True, slots=True)
class CacheState:
    stats: Callable[[], CacheStats]
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class EngineState:
    description: Callable[[], str]
    up: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class StateSources:
    """What is read. A process leaves out what it does not have."""

    version: str
    model: Mapping[str, str]
    """``name``, ``version``, ``digest``."""
    engines: Mapping[str, EngineState]
    caches: Mapping[str, CacheState] = field(default_factory=dict)
    queues: Mapping[str, Callable[[], QueueStats]] = field(default_factory=dict)
    """By priority."""
    expected: Mapping[str, Callable[[], float]] = field(default_factory=dict)
    """Seconds by kind of work."""
    embeddings: Callable[[], EmbeddingStats] | None = None
    slabs: Callable[[], Mapping[str, SlabStats]] = dict
    """By what their slots are for."""
    triton: Callable[[], TritonCounts] | None = None
    sessions: Callable[[], SessionStats] | None = None
    store_limit_bytes: int = 0
    """Of kept sessions; 0: there is no store of them."""
    plain: Sequence[tuple[Metric, Callable[[], float]]] = ()
    """Gauges without labels."""


class StateCollector(Collector):
    """A Collector for a registry."""

    def __init__(self, sources: StateSources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Family]:
        sources = self._sources
        yield _info(t.BUILD_INFO, {"version": sources.version})
        yield _info(t.MODEL_INFO, sources.model)
        yield from self._engines()
        yield from self._queues()
        yield from self._caches()
        yield from self._places()
        yield from self._triton()
        yield from self._sessions()
        for metric, read in sources.plain:
            yield GaugeMetricFamily(metric.name, metric.help, value=read(), unit=metric.unit)

    def _engines(self) -> Iterator[Family]:
        engines = self._sources.engines
        yield _gauge(t.ENGINE_UP, {name: engine.up() for name, engine in engines.items()})
        family = GaugeMetricFamily(t.ENGINE_INFO.name, t.ENGINE_INFO.help, labels=tuple(t.ENGINE_INFO.labels))
        for name, engine in engines.items():
            family.add_metric((name, engine.description()), 1)
        yield family

    def _queues(self) -> Iterator[Family]:
        queues = {name: read() for name, read in self._sources.queues.items()}
        if queues:
            yield _gauge(t.IN_PROGRESS, {name: queue.in_progress for name, queue in queues.items()})
            yield _gauge(t.QUEUE_REQUESTS, {name: queue.waiting for name, queue in queues.items()})
            yield _gauge(t.QUEUE_COST, {name: queue.waiting_cost for name, queue in queues.items()})
            yield _gauge(t.QUEUE_AGE, {name: queue.age for name, queue in queues.items()})
        if self._sources.expected:
            yield _gauge(t.EXPECTED, {work: read() for work, read in self._sources.expected.items()})

    def _caches(self) -> Iterator[Family]:
        caches = {name: cache.stats() for name, cache in self._sources.caches.items()}
        yield _counter(t.CACHE_HITS, {name: cache.hits for name, cache in caches.items()})
        yield _counter(t.CACHE_MISSES, {name: cache.misses for name, cache in caches.items()})
        yield _counter(t.CACHE_EVICTIONS, {name: cache.evictions for name, cache in caches.items()})
        yield _gauge(t.CACHE_BYTES, {name: cache.nbytes for name, cache in caches.items()})
        limits = {name: cache.limit_bytes for name, cache in self._sources.caches.items()}
        yield _gauge(t.CACHE_LIMIT, limits)

    def _places(self) -> Iterator[Family]:
        if self._sources.embeddings is not None:
            stats = self._sources.embeddings()
            places = {"shared": stats.shared, "own": stats.own}
            yield _gauge(t.EMBEDDINGS, {name: place.held for name, place in places.items()})
            yield _gauge(t.EMBEDDINGS_LEASED, {name: place.leased for name, place in places.items()})
            yield _counter(t.EMBEDDINGS_OUTSIDE, {"moved": stats.moved, "allocated": stats.allocated})
        slabs = self._sources.slabs()
        if slabs:
            states = {
                (name, state): count for name, slab in slabs.items() for state, count in asdict(slab).items()
            }
            yield _gauge(t.SLOTS, states)

    def _sessions(self) -> Iterator[Family]:
        if self._sources.sessions is None:
            return
        stats = self._sources.sessions()
        yield _gauge(store.SESSIONS_KEPT, {"open": stats.kept_open, "parked": stats.parked})
        yield _counter(store.SESSIONS_GAVE_WAY, {(): stats.gave_way})
        yield _gauge(store.STORE_BYTES, {(): stats.store_bytes})
        yield _gauge(store.STORE_LIMIT, {(): self._sources.store_limit_bytes})

    def _triton(self) -> Iterator[Family]:
        if self._sources.triton is None:
            return
        counts = self._sources.triton()
        calls = {
            ("encode", "shared"): counts.encodes - counts.encodes_by_value,
            ("encode", "grpc"): counts.encodes_by_value,
            ("decode", "shared"): counts.decodes - counts.decodes_by_value,
            ("decode", "grpc"): counts.decodes_by_value,
        }
        yield _counter(t.TRITON_CALLS, calls)
        yield _counter(t.TRITON_BYTES, {"sent": counts.bytes_sent, "received": counts.bytes_received})
        yield _counter(t.TRITON_RETRIES, {(): counts.retries})
        yield _counter(t.TRITON_HANDSHAKES, {(): counts.handshakes})
        yield _counter(t.TRITON_MAPPINGS, {(): counts.mappings})


class LibraryMetrics(Collector):
    """What a library measures of itself in another registry: the metrics whose names begin so."""

    def __init__(self, prefixes: tuple[str, ...], registry: CollectorRegistry) -> None:
        self._prefixes, self._registry = prefixes, registry

    def collect(self) -> Iterator[Family]:
        return (family for family in self._registry.collect() if family.name.startswith(self._prefixes))


def _gauge(metric: Metric, values: Mapping[Labels, float]) -> Family:
    family = GaugeMetricFamily(metric.name, metric.help, labels=tuple(metric.labels), unit=metric.unit)
    for labels, value in values.items():
        family.add_metric((labels,) if isinstance(labels, str) else labels, value)
    return family


def _counter(metric: Metric, values: Mapping[Labels, float]) -> Family:
    family = CounterMetricFamily(metric.name, metric.help, labels=tuple(metric.labels), unit=metric.unit)
    for labels, value in values.items():
        family.add_metric((labels,) if isinstance(labels, str) else labels, value)
    return family


def _info(metric: Metric, labels: Mapping[str, str]) -> Family:
    family = GaugeMetricFamily(metric.name, metric.help, labels=tuple(metric.labels))
    family.add_metric(tuple(labels[name] for name in metric.labels), 1)
    return family
