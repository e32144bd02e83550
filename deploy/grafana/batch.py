"""What the dashboard shows of batch runs, which node_exporter tells from the files that ``--metrics`` names.

Knows metrics, units and titles: a row of ``deploy.grafana.panels``. ``$job`` does not hold here: the job is
node_exporter's.
"""

from __future__ import annotations

from deploy.grafana.panel import Panel, Row
from deploy.grafana.queries import Query

BATCH = Row(
    "Batch annotation",
    (
        Panel("Items, by state", "short", [Query("{{state}}", "sum by (state) (mediround_annotate_items)")]),
        Panel(
            "Items finished, a second",
            "ops",
            [
                Query(
                    "{{run}} {{shard}}",
                    "sum by (run, shard) (rate(mediround_annotate_finished_total[$__rate_interval]))",
                )
            ],
        ),
        Panel(
            "Failed, of items finished",
            "percentunit",
            [
                Query(
                    "{{run}}",
                    'sum by (run) (mediround_annotate_items{state="failed"})'
                    ' / sum by (run) (mediround_annotate_items{state!="left"})',
                )
            ],
        ),
        Panel(
            "Runs at work, and why they wait",
            "short",
            [
                Query("at work", "sum (mediround_annotate_running)"),
                Query("wait: {{reason}}", "sum by (reason) (mediround_annotate_waiting)"),
            ],
            "A run waits for its hours (window), for the rate it may have, or for a service that is busy.",
        ),
        Panel("Items asked now", "short", [Query("{{run}} {{shard}}", "mediround_annotate_in_flight")]),
    ),
)
