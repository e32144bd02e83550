"""What a metric is declared with.

Does not know which there are (``serving.telemetry.metrics``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class MetricKind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Each of its series exists from the start, with 0: a rate needs a value to rise from."""

    name: str
    kind: MetricKind
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Every value of each label; none where it is one text, known when the process starts (``model_info``)."""
    unit: str = ""
    buckets: tuple[float, ...] = ()
    """Upper edges, of a histogram."""


SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.4, 0.6),
    *(1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 60.0),
)
"""Every latency objective is an edge, so that a share within it is exact."""
