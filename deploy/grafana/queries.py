"""How a metric is asked for: the dashboard's expressions in PromQL.

Knows Prometheus's language; ``$job`` says which of our servers is meant. Does not know which metrics there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    legend: str
    expression: str


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Events a second; ``by`` labels, ``where`` matchers."""
    matchers = ",".join(filter(None, ('job=~"$job"', where)))
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{matchers}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', ', '.join(filter(None, ('le', by))), where)})"


def ratio(part: str, whole: str, by: str = "") -> str:
    return f"{rate(part, by)} / {rate(whole, by)}"


def quantiles(shares: Sequence[float], metric: str, where: str = "") -> list[Query]:
    return [Query(f"p{share * 100:g}", quantile(share, metric, "", where)) for share in shares]


def gauge(metric: str, by: str) -> str:
    return f'sum by ({by}) ({metric}{{job=~"$job"}})'
