"""What the dashboard shows of sessions that are kept, and of their store.

Knows metrics, units and titles: a row of ``deploy.grafana.panels``.
"""

from __future__ import annotations

from deploy.grafana.panel import Panel, Row
from deploy.grafana.queries import Query, gauge, quantile, rate

KEPT_SESSIONS = Row(
    "Kept sessions",
    (
        Panel("Sessions that are kept", "short", [Query("{{state}}", gauge("mediround_sessions_kept", "state"))]),
        Panel(
            "Bytes of the store, of those allowed",
            "percentunit",
            [
                Query(
                    "{{instance}}",
                    f"{gauge('mediround_store_bytes', 'instance')}"
                    f" / {gauge('mediround_store_limit_bytes', 'instance')}",
                )
            ],
        ),
        Panel(
            "Store, p95",
            "s",
            [Query("{{operation}}", quantile(0.95, "mediround_store_seconds", "operation"))],
        ),
        Panel(
            "Failures of the store",
            "ops",
            [
                Query(
                    "{{operation}}, {{outcome}}",
                    rate("mediround_store_operations_total", "operation, outcome", 'outcome!="ok"'),
                )
            ],
        ),
        Panel("Gave way, a second", "ops", [Query("", rate("mediround_sessions_gave_way_total"))]),
    ),
)
