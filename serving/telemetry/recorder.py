"""Observer that turns events into Prometheus counters and histograms.

Knows which event changes which metric of ``serving.telemetry.metrics``. Does not know how the numbers are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram

from serving.errors import Shed
from serving.history.rounds import RoundResult
from serving.observer import Ahead, StoreOutcome, WaveTerms
from serving.telemetry import metrics as t
from serving.telemetry import store_metrics as store
from serving.telemetry.metric import Metric

M = TypeVar("M", Counter, Histogram)


class MetricsRecorder:
    """All on one event loop. Every series is in ``registry`` from the start, with 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._rounds = self._counter(t.ROUNDS)
        self._round_seconds = self._histogram(t.ROUND_SECONDS)
        self._stage_seconds = self._histogram(t.STAGE_SECONDS)
        self._ahead = self._counter(t.AHEAD)
        self._store_seconds, self._store = self._histogram(store.STORE_SECONDS), self._counter(store.STORE)
        self._calls, self._shed = self._counter(t.CALLS), self._counter(t.SHED)
        self._tokens, self._passes = self._counter(t.PROMPT_TOKENS), self._counter(t.PASSES)
        self._dialogue_rounds = self._histogram(t.DIALOGUE_ROUNDS)
        self._dialogue_waves = self._histogram(t.DIALOGUE_WAVES)
        self._batch_masks, self._score = self._histogram(t.BATCH_MASKS), self._histogram(t.SCORE)
        self._correctable = self._counter(t.CORRECTABLE)
        self._corrected, self._near = self._counter(t.CORRECTED), self._counter(t.NEAR_THRESHOLD)
        self._empty, self._no_mask = self._counter(t.EMPTY), self._counter(t.NO_MASK)

    def opened(self, pixels: float, preprocess: float) -> None:
        self._stage_seconds.labels("pixels").observe(pixels)
        self._stage_seconds.labels("preprocess").observe(preprocess)

    def ahead(self, outcome: Ahead) -> None:
        self._ahead.labels(outcome.value).inc()

    def encoded(self, seconds: float) -> None:
        self._stage_seconds.labels(t.ENCODE_AHEAD).observe(seconds)

    def read_ahead(self, prompt_tokens: int, cached_tokens: int) -> None:
        self._read(prompt_tokens, cached_tokens)

    def wave(self, results: Sequence[RoundResult], terms: WaveTerms) -> None:
        cache, priority = results[0].cache, terms.priority.name.lower()
        self._read(cache.prompt_tokens, cache.cached_tokens)
        self._correctable.inc(terms.correctable)
        masks = sum(result.segmentation is not None for result in results)
        self._stages(results[0], masks)
        if masks:
            self._batch_masks.observe(masks)
        for result in results:
            self._round_seconds.labels(t.index_label(result.index), priority).observe(result.timings.total)
            self._outcome(result, terms.threshold)

    def dialogue(self, rounds: int, waves: int) -> None:
        self._dialogue_rounds.observe(rounds)
        self._dialogue_waves.observe(waves)

    def rounds(self, indices: Sequence[int | None], code: str) -> None:
        for index in indices:
            self._rounds.labels(code, t.index_label(index)).inc()

    def call(self, method: str, code: str, shed: Shed | None) -> None:
        self._calls.labels(method, code).inc()
        if shed is not None:
            self._shed.labels(shed.value).inc()

    def stored(self, operation: str, outcome: StoreOutcome, seconds: float) -> None:
        self._store_seconds.labels(operation).observe(seconds)
        self._store.labels(operation, outcome.value).inc()

    def _read(self, prompt_tokens: int, cached_tokens: int) -> None:
        self._passes.inc()
        self._tokens.labels("cached").inc(cached_tokens)
        self._tokens.labels("computed").inc(prompt_tokens - cached_tokens)

    def _stages(self, result: RoundResult, masks: int) -> None:
        """Observe the stages of one wave; one that did not take place is not observed as 0."""
        timings = result.timings
        took_place = {
            "queue": result.cache.wave == 0,
            "prepare": True,
            "language": True,
            "encode": timings.encode > 0,
            "decode": masks > 0,
            "postprocess": masks > 0,
        }
        for stage in t.ROUND_STAGES:
            if took_place[stage]:
                self._stage_seconds.labels(stage).observe(getattr(timings, stage))

    def _outcome(self, result: RoundResult, threshold: float) -> None:
        segmentation = result.segmentation
        if segmentation is None:
            self._no_mask.inc()
            return
        self._corrected.inc(segmentation.corrected)
        self._empty.inc(not segmentation.mask.area)
        if segmentation.score is not None:
            self._score.observe(segmentation.score)
            self._near.inc(math.isclose(segmentation.score, threshold, rel_tol=0.0, abs_tol=t.NEAR))

    def _counter(self, metric: Metric) -> Counter:
        labels, registry = tuple(metric.labels), self._registry
        return _from_zero(Counter(metric.name, metric.help, labels, unit=metric.unit, registry=registry), metric)

    def _histogram(self, metric: Metric) -> Histogram:
        return _from_zero(
            Histogram(
                metric.name,
                metric.help,
                tuple(metric.labels),
                unit=metric.unit,
                registry=self._registry,
                buckets=metric.buckets,
            ),
            metric,
        )


def _from_zero(family: M, metric: Metric) -> M:
    for values in product(*metric.labels.values()) if metric.labels else ():
        family.labels(*values)
    return family
