"""The panels in Grafana's form.

Knows the grid and the variables: ``$datasource`` says where Prometheus is. No Grafana renders it here; a real
Prometheus evaluates its queries (tests/deploy).
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.models.dashboard import Dashboard, DataSourceRef

from deploy.grafana.panel import Panel
from deploy.grafana.panels import ROWS

UID = "mediround"
SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
HEIGHT, WIDTH = 8, 8
"""Of a panel, on a grid 24 wide."""


def build() -> Dashboard:
    """The dashboard of ``ROWS``."""
    made = (
        dashboard.Dashboard("MediRound")
        .uid(UID)
        .tags(["mediround"])
        .refresh("30s")
        .time("now-3h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("job")
            .datasource(SOURCE)
            .query("label_values(mediround_build_info, job)")
            .include_all(include_all=True)
            .multi(multi=True)
        )
    )
    for row in ROWS:
        made = made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            made = made.with_panel(_panel(panel))
    return made.build()


def _panel(panel: Panel) -> timeseries.Panel:
    made = timeseries.Panel().title(panel.title).description(panel.note).unit(panel.unit).datasource(SOURCE)
    made = made.height(HEIGHT).span(WIDTH).min(0)
    for query in panel.queries:
        made = made.with_target(prometheus.Dataquery().expr(query.expression).legend_format(query.legend))
    return made
