"""The recording rules, held to one history by Debian's promtool; and the history held to wrong rules."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import yaml

from serving.telemetry.metrics import CODES
from tests.deploy.history import AGES, COUNTERS, MINUTES, meant
from tests.deploy.promtool import RECORDING, failed, needed, numbered, promtool, rules

RULES: dict[str, str] = {rule["record"]: rule["expr"] for rule in rules(RECORDING)}
WINDOW = re.compile(r"\[(\d+)([mhd])\]")
CODE_SET = re.compile(r'code=~"([A-Z_|]+)"')
EDGE = 'le="1.0"'
PRIORITY = re.compile(r'priority="interactive",?')
PARTS = 1_000_000
"""Of a value, which is compared to this precision."""
pytestmark = needed


def unlike(given: Sequence[tuple[str, str]], directory: Path) -> tuple[set[int], str]:
    """Which expressions say otherwise than the name beside each promises, and promtool's words."""
    test = {
        "interval": "1m",
        "input_series": [{"series": str(counter), "values": counter.values} for counter in COUNTERS],
        "promql_expr_test": [
            {
                "expr": numbered(f"round(({expression}) * {PARTS})", number),
                "eval_time": f"{AGES[-1]}m",
                "exp_samples": [
                    {"labels": labels, "value": math.floor(value * PARTS + 0.5)}
                    for labels, value in meant(record).items()
                ],
            }
            for number, (record, expression) in enumerate(given)
        ],
    }
    file = directory / "history.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1d", "tests": [test]}))
    said = promtool("test", "rules", str(file))
    return failed(said), said


def wrong(expression: str) -> Iterator[str]:
    """Windows at 2/5 and 5/2, all and each; a code more or less; slow at another edge; another priority."""
    for factor in (0.4, 2.5):
        longer = partial(_window, factor=factor)
        yield WINDOW.sub(longer, expression)
        yield from (_put(expression, found, longer(found)) for found in WINDOW.finditer(expression))
    for found in CODE_SET.finditer(expression):
        codes = found[1].split("|")
        without = [[kept for kept in codes if kept != code] for code in codes]
        for other in [*without, *([*codes, code] for code in CODES if code not in codes)]:
            yield _put(expression, found, f'code=~"{"|".join(other)}"')
    if EDGE in expression:
        yield from (expression.replace(EDGE, f'le="{edge}"') for edge in ("0.6", "1.5"))
    for found in PRIORITY.finditer(expression):
        yield _put(expression, found, "")
        yield _put(expression, found, found[0].replace("interactive", "batch"))


def _window(found: re.Match[str], factor: float) -> str:
    return f"[{round(int(found[1]) * MINUTES[found[2]] * 60 * factor)}s]"


def _put(text: str, found: re.Match[str], other: str) -> str:
    return text[: found.start()] + other + text[found.end() :]


def test_what_is_recorded(tmp_path: Path) -> None:
    _, said = unlike(list(RULES.items()), tmp_path)
    assert not said


def test_a_wrong_rule_is_found_out(tmp_path: Path) -> None:
    given = [(record, put) for record, expression in RULES.items() for put in wrong(expression)]
    assert {record for record, _ in given} == set(RULES)
    found, said = unlike(given, tmp_path)
    assert [pair for number, pair in enumerate(given) if number not in found] == [], said[:1000]
