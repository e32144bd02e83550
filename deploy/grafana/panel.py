"""A panel and a row of the dashboard, as values.

Does not know what they show (``deploy.grafana.panels``), nor Grafana's form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.grafana.queries import Query


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    unit: str
    queries: Sequence[Query]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: Sequence[Panel]
