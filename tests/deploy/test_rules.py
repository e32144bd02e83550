"""The rules, held to scenarios by Debian's promtool; and the scenarios held to wrong rules."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.deploy.scenarios import SCENARIOS, Scenario

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
RECORDING, ALERTS = PROMETHEUS / "rules" / "recording.yml", PROMETHEUS / "rules" / "alerts.yml"
RULES, RECORDED = yaml.safe_load(ALERTS.read_text()), yaml.safe_load(RECORDING.read_text())
EXPRESSIONS: dict[str, str] = {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}
THRESHOLD = re.compile(r"(?<=[<>] )\d[\d.]*")
AND = re.compile(r"\s+and\s+(?:on \(job\) )?")
pytestmark = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool: Debian package prometheus")


def promtool(*arguments: str) -> str:
    """What it finds wrong; empty when nothing is."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def failures(scenarios: Sequence[Scenario], expressions: dict[str, str], directory: Path) -> str:
    """What goes otherwise than the scenarios say of these alerts."""
    (directory / "rules.yml").write_text(yaml.safe_dump(with_what_they_read(expressions)))
    files = []
    for every in sorted({scenario.evaluated for scenario in scenarios}):
        tests = [as_test(scenario, set(expressions)) for scenario in scenarios if scenario.evaluated == every]
        whole = {"rule_files": ["rules.yml"], "evaluation_interval": every, "tests": tests}
        whole["group_eval_order"] = ["recorded", "alerts"]  # else any order: an alert may read the round before
        files.append(directory / f"{every}.yml")
        files[-1].write_text(yaml.safe_dump(whole))
    return promtool("test", "rules", *map(str, files))


def with_what_they_read(expressions: dict[str, str]) -> dict[str, Any]:
    """The alerts, and the recording rules that they read: all of them would take promtool minutes."""
    text = " ".join(expressions.values())
    read = [rule for group in RECORDED["groups"] for rule in group["rules"] if rule["record"] in text]
    alerts = [
        rule | {"expr": expressions[rule["alert"]]}
        for group in RULES["groups"]
        for rule in group["rules"]
        if rule["alert"] in expressions
    ]
    return {"groups": [{"name": "recorded", "rules": read}, {"name": "alerts", "rules": alerts}]}


def as_test(scenario: Scenario, alerts: set[str]) -> dict[str, object]:
    return {
        "name": scenario.name,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in scenario.series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": time,
                "exp_samples": [
                    {"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing & alerts)
                ],
            }
            for time, firing in scenario.firing.items()
        ],
    }


def wrong(expression: str) -> Iterator[tuple[str, str]]:
    """Never firing; each threshold at 2/5 and 5/2 of what it is; without each of the conditions."""
    yield "never", "vector(0) > 1"
    for value in sorted(set(THRESHOLD.findall(expression))):
        for factor in (0.4, 2.5):
            other = str(round(float(value) * factor, 6))
            yield f"{value} x {factor}", re.sub(rf"(?<=[<>] ){re.escape(value)}(?![\d.])", other, expression)
    conditions = AND.split(expression)
    if len(conditions) > 1:
        for index, condition in enumerate(conditions):
            yield f"without {condition}", " and ".join(conditions[:index] + conditions[index + 1 :])


def test_what_fires(tmp_path: Path) -> None:
    assert not failures(SCENARIOS, EXPRESSIONS, tmp_path)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_wrong_alert_is_found_out(name: str, tmp_path: Path) -> None:
    about = [scenario for scenario in SCENARIOS if name.startswith(scenario.about)]
    alternatives = dict(wrong(EXPRESSIONS[name]))
    passed = [what for what, put in alternatives.items() if not failures(about, {name: put}, tmp_path)]
    assert not passed


def test_the_files_are_what_prometheus_reads() -> None:
    assert not promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
