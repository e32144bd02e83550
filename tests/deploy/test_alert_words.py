"""What docs/operations.md says of each alert."""

from __future__ import annotations

import re

from deploy.grafana.panels import ROWS
from tests.conftest import REPOSITORY
from tests.deploy.promtool import ALERTS, rules

PANELS = {panel.title for row in ROWS for panel in row.panels}


def test_each_alert_has_a_row_of_words_and_each_row_an_alert() -> None:
    severities = {rule["alert"]: rule["labels"]["severity"] for rule in rules(ALERTS)}
    operations = (REPOSITORY / "docs" / "operations.md").read_text()
    section = operations.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| <a ")]
    rows = [[row[0].partition("</a>")[2], *row[1:]] for row in rows]
    assert [row[0].strip("`") for row in rows] == list(severities)
    assert [(row[0], len(row)) for row in rows if len(row) != 3 or not all(row)] == []
    for name, means, first in rows:
        assert means.startswith(f"{severities[name.strip('`')]}: "), name
        assert [panel for panel in re.findall('"(.+?)"', first) if panel not in PANELS] == [], name


def test_each_alert_leads_to_its_row() -> None:
    for rule in rules(ALERTS):
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        page = (REPOSITORY / path).read_text()
        assert page.count(f'<a id="{anchor}"></a>`{rule["alert"]}`') == 1
