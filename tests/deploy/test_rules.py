"""The alerts, held to scenarios by Debian's promtool; and the scenarios held to wrong alerts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.batch_scenarios import BATCH_SCENARIOS
from tests.deploy.call_scenarios import CALL_SCENARIOS
from tests.deploy.promtool import ALERTS, PROMETHEUS, RECORDING, failed, needed, numbered, promtool, rules
from tests.deploy.scenarios import SCENARIOS, Scenario

ALL = [*SCENARIOS, *CALL_SCENARIOS, *BATCH_SCENARIOS]
Rule = dict[str, Any]
RULES = {rule["alert"]: rule for rule in rules(ALERTS)}
RECORDED = rules(RECORDING)
THRESHOLD = re.compile(r"(?<=[<>] )\d[\d.]*")
EQUAL = re.compile(r"== ([01])")
AND = re.compile(r"\s+and\s+(?:on \(job\) )?")
FACTORS = (0.4, 2.5)
SECONDS = {"s": 1, "m": 60, "h": 3600}
pytestmark = needed


def about(name: str) -> tuple[Scenario, ...]:
    return tuple(scenario for scenario in ALL if name.startswith(scenario.about))


def alike() -> list[list[str]]:
    """Alerts that the same scenarios are about: promtool takes most of its time for those."""
    found = defaultdict(list)
    for name in RULES:
        found[tuple(scenario.name for scenario in about(name))].append(name)
    return list(found.values())


def wrong(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """Never firing; thresholds and times at 2/5 and 5/2; what is 0 is 1; without each of the conditions."""
    expression = rule["expr"]
    yield "never", rule | {"expr": "vector(0) > 1"}
    for value in sorted(set(THRESHOLD.findall(expression))):
        for factor in FACTORS:
            other = str(round(float(value) * factor, 6))
            put = re.sub(rf"(?<=[<>] ){re.escape(value)}(?![\d.])", other, expression)
            yield f"{value} x {factor}", rule | {"expr": put}
    for found in EQUAL.finditer(expression):
        put = f"{expression[: found.start()]}== {1 - int(found[1])}{expression[found.end() :]}"
        yield f"not {found[0]}", rule | {"expr": put}
    conditions = AND.split(expression)
    if len(conditions) > 1:
        for index, condition in enumerate(conditions):
            put = " and ".join(conditions[:index] + conditions[index + 1 :])
            yield f"without {condition}", rule | {"expr": put}
    if "for" in rule:
        seconds = int(rule["for"][:-1]) * SECONDS[rule["for"][-1]]
        for factor in FACTORS:
            yield f"for {rule['for']} x {factor}", rule | {"for": f"{round(seconds * factor)}s"}


def unlike(scenarios: Sequence[Scenario], given: Sequence[Rule], directory: Path) -> tuple[set[int], str]:
    """Which of the rules do otherwise than the scenarios say of their alerts, and promtool's words."""
    named = [rule | {"alert": f"{rule['alert']}_{number}"} for number, rule in enumerate(given)]
    text = " ".join(rule["expr"] for rule in given)  # all recorded rules would take promtool minutes
    read = [rule for rule in RECORDED if rule["record"] in text]
    groups = [{"name": "recorded", "rules": read}, {"name": "alerts", "rules": named}]
    (directory / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    files = []
    for every in sorted({scenario.evaluated for scenario in scenarios}):
        tests = [as_test(scenario, given) for scenario in scenarios if scenario.evaluated == every]
        whole = {"rule_files": ["rules.yml"], "evaluation_interval": every, "tests": tests}
        whole["group_eval_order"] = ["recorded", "alerts"]  # else any order: an alert may read the round before
        files.append(directory / f"{every}.yml")
        files[-1].write_text(yaml.safe_dump(whole))
    said = promtool("test", "rules", *map(str, files))
    return failed(said), said


def as_test(scenario: Scenario, given: Sequence[Rule]) -> dict[str, object]:
    """Each of the rules on its own: it fires when the scenario says so of its alert."""
    return {
        "name": scenario.name,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in scenario.series.items()],
        "promql_expr_test": [
            {
                "expr": numbered(
                    f'count (ALERTS{{alertstate="firing",alertname="{rule["alert"]}_{number}"}})', number
                ),
                "eval_time": time,
                "exp_samples": [{"value": 1}] if rule["alert"] in firing else [],
            }
            for time, firing in scenario.firing.items()
            for number, rule in enumerate(given)
        ],
    }


def test_what_fires(tmp_path: Path) -> None:
    assert {name for scenario in ALL for firing in scenario.firing.values() for name in firing} == set(RULES)
    _, said = unlike(ALL, list(RULES.values()), tmp_path)
    assert not said


@pytest.mark.parametrize("names", alike(), ids="-".join)
def test_a_wrong_alert_is_found_out(names: list[str], tmp_path: Path) -> None:
    alternatives = [(f"{name} {what}", rule) for name in names for what, rule in wrong(RULES[name])]
    found, said = unlike(about(names[0]), [rule for _, rule in alternatives], tmp_path)
    assert [what for number, (what, _) in enumerate(alternatives) if number not in found] == [], said[:1000]


def test_the_files_are_what_prometheus_reads() -> None:
    assert not promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
