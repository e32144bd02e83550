"""What the server says of itself while it is under load: its ``/metrics``.

Knows the exposition format and the names of the metrics that a report uses. Does not know rounds. A server that
exposes less gives a shorter report; one that cannot be read at the start is an error, later a gap that is counted.
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

MAX_BYTES = 8 << 20
INTERVAL = 1.0
_TIMEOUT = 3.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Whatever proxy the environment names: metrics are of a server near by."""

MEMORY = "process_resident_memory_bytes"
CPU = "process_cpu_seconds_total"
PEAKS = (
    MEMORY,
    "mediround_queue_requests",
    "mediround_requests_in_progress",
    "mediround_queue_age_seconds",
    "mediround_sessions_open",
    "mediround_session_bytes",
    "mediround_cache_bytes",
)
"""Gauges whose highest sum over their series is reported."""

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name, and its labels in order."""
Sample = Mapping[Series, float]


class ScrapeError(Exception):
    """The metrics cannot be read; the message says where and why."""


class Endpoint:
    """The metrics of one process."""

    def __init__(self, address: str) -> None:
        """``address``: HOST:PORT, or a URL. Raises ScrapeError for anything else."""
        self.url = address if "://" in address else f"http://{address}/metrics"
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ScrapeError(f"{address}: give HOST:PORT or an http URL")

    async def read(self) -> Sample:
        """Raises ScrapeError."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> Sample:
        accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        request = urllib.request.Request(self.url, headers=accept)  # noqa: S310  # http or https: looked at above
        try:
            with _DIRECT.open(request, timeout=_TIMEOUT) as answer:
                text = answer.read(MAX_BYTES + 1)
                open_metrics = "openmetrics" in answer.headers.get("Content-Type", "")
            if len(text) > MAX_BYTES:
                raise ScrapeError(f"{self.url}: more than {MAX_BYTES} bytes")
            return sample(text.decode(), open_metrics=open_metrics)
        except (OSError, ValueError, KeyError) as error:
            raise ScrapeError(f"{self.url}: {error}") from error


def sample(text: str, *, open_metrics: bool) -> Sample:
    """Every sample of an exposition. Raises ValueError."""
    families = openmetrics(text) if open_metrics else plain(text)  # type: ignore[no-untyped-call]  # upstream
    return {
        (found.name, tuple(sorted(found.labels.items()))): float(found.value)
        for family in families
        for found in family.samples
    }


@dataclass(slots=True)
class Observed:
    """What was read at one address during a run."""

    before: Sample = field(default_factory=dict)
    """When the time measured began; where that read failed, the one after."""
    after: Sample = field(default_factory=dict)
    """When the last round of it was over; where that read failed, the one before."""
    peaks: dict[str, float] = field(default_factory=dict)
    scrapes: int = 0
    failed: int = 0

    def grown(self, name: str, label: str | None = None) -> dict[str, float]:
        """By how much a counter grew, by the values of one label, or as a whole under ""."""
        totals: defaultdict[str, float] = defaultdict(float)
        for (found, labels), value in self.after.items():
            if found == name:
                key = dict(labels).get(label, "") if label else ""
                totals[key] += value - self.before.get((found, labels), 0.0)
        return dict(totals)

    def add(self, read: Sample) -> None:
        self.scrapes += 1
        self.before, self.after = self.before or read, read
        sums: defaultdict[str, float] = defaultdict(float)
        for (name, _), value in read.items():
            if name in PEAKS:
                sums[name] += value
        for name, value in sums.items():
            self.peaks[name] = max(value, self.peaks.get(name, value))


async def observe(endpoint: Endpoint, observed: Observed, begins: float, clock: Callable[[], float]) -> None:
    """Read every second until cancelled."""
    while True:
        began = clock()
        read = await read_into(endpoint, observed)
        if read is not None and began <= begins:
            observed.before = read
        await asyncio.sleep(INTERVAL)


async def read_into(endpoint: Endpoint, observed: Observed) -> Sample | None:
    """None: it cannot be read, which is counted."""
    try:
        read = await endpoint.read()
    except ScrapeError:
        observed.failed += 1
        return None
    observed.add(read)
    return read
