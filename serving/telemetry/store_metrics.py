"""Metrics of kept sessions and their store, declared once: a part of ``serving.telemetry.metrics``."""

from __future__ import annotations

from serving.observer import StoreOutcome
from serving.telemetry.metric import SECONDS, Metric, MetricKind

STORE_OPERATIONS = ("read", "write")

SESSIONS_KEPT = Metric(
    "mediround_sessions_kept",
    MetricKind.GAUGE,
    "Sessions in the store of kept sessions, as last looked at: open in this process; others count as parked, "
    "also those that are open in another.",
    {"state": ("open", "parked")},
)
SESSIONS_GAVE_WAY = Metric(
    "mediround_sessions_gave_way",
    MetricKind.COUNTER,
    "Sessions that gave way to others for lack of room in memory; those that are kept were parked, others ended.",
)
STORE_BYTES = Metric(
    "mediround_store_bytes",
    MetricKind.GAUGE,
    "Bytes of the store of kept sessions, as last looked at: the file without its log, or all sessions in Redis.",
    unit="bytes",
)
STORE_LIMIT = Metric(
    "mediround_store_limit_bytes", MetricKind.GAUGE, "Most bytes of the store of kept sessions.", unit="bytes"
)
STORE = Metric(
    "mediround_store_operations",
    MetricKind.COUNTER,
    "Operations on the store of kept sessions, by outcome.",
    {"operation": STORE_OPERATIONS, "outcome": tuple(StoreOutcome)},
)
STORE_SECONDS = Metric(
    "mediround_store_seconds",
    MetricKind.HISTOGRAM,
    "Seconds of each operation on the store of kept sessions, its waiting for others included.",
    {"operation": STORE_OPERATIONS},
    "seconds",
    SECONDS,
)

CATALOGUE = (SESSIONS_KEPT, SESSIONS_GAVE_WAY, STORE_BYTES, STORE_LIMIT, STORE, STORE_SECONDS)
