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
