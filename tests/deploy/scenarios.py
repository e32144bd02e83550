"""What the alerts are for, as series in promtool's notation, and which alerts fire at which time.

For each threshold there is a scenario a little above it and one a little below, and for each condition one in
which it alone is not met: test_rules.py counts on that. Knows the rules. Does not know how promtool is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from serving.telemetry.metrics import CODES

LONG = 1500
"""Minutes that a series lasts where nothing else is said."""
Leg = tuple[float, float]
"""Minutes, and how much a counter gains in each of them."""


def counter(*legs: Leg) -> str:
    value, written = 0.0, []
    for minutes, gain in legs:
        written.append(f"{value:g}+{gain:g}x{minutes - 1:g}")
        value += minutes * gain
    return " ".join(written)


def series(metric: str, job: str = "mediround", **labels: str) -> str:
    named = {"job": job, "instance": "a"} | labels
    return metric + "{" + ", ".join(f'{key}="{value}"' for key, value in named.items()) + "}"


def rounds(code: str) -> str:
    return series("mediround_rounds_total", code=code, index="0")


IDLE = {
    series("up"): f"1x{LONG}",
    **{rounds(code): f"0x{LONG}" for code in ("OK", "INTERNAL")},
}
"""The service, up, and asked nothing."""


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    about: tuple[str, ...]
    """How the names of the alerts begin that it was written against."""
    series: Mapping[str, str]
    """By the minute."""
    firing: Mapping[str, frozenset[str]]
    """Exactly these alerts, at these times."""

    @property
    def evaluated(self) -> str:
        """How often the rules are: seldom where it lasts, or promtool takes its time.

        An objective's alerts fire at once: it is enough when they are looked at.
        """
        objectives = all(name.startswith(("MediroundErrors", "MediroundLatency")) for name in self.about)
        if objectives:
            return "1h" if all(time.endswith("h") for time in self.firing) else "10m"
        return "5m" if any("h" in time for time in self.firing) else "30s"


def scenario(name: str, about: str, values: Mapping[str, str], /, **firing: str) -> Scenario:
    """``at_7h="A B"``: A and B fire seven hours after the start, and nothing else does. Empty: nothing does."""
    at = {time.removeprefix("at_"): frozenset(alerts.split()) for time, alerts in firing.items()}
    return Scenario(name, tuple(about.split()), {**IDLE, **values}, at)


def course(
    kind: str, *legs: tuple[float, float, float], code: str = "UNAVAILABLE", priority: str = "interactive"
) -> dict[str, str]:
    """Rounds of which a share has failed (``Errors``) or was slow (``Latency``). A leg: minutes, rounds, share."""
    every = counter(*((minutes, rate) for minutes, rate, _ in legs))
    good = counter(*((minutes, rate * (1 - share)) for minutes, rate, share in legs))
    bad = counter(*((minutes, rate * share) for minutes, rate, share in legs))
    if kind == "Errors":
        return {rounds("OK"): good, rounds(code): bad}
    seconds = {"priority": priority, "index": "0"}
    return {
        rounds("OK"): every,
        series("mediround_round_seconds_count", **seconds): every,
        series("mediround_round_seconds_bucket", **seconds, le="1.0"): good,
    }


def burning(
    kind: str, shares: tuple[float, float, float, float, float], much: float, soon: int
) -> Iterator[Scenario]:
    """An objective's three alerts. ``shares`` set off all three, two, one, one and none.

    ``much`` is far above; ``soon`` minutes of it are enough for the six hours' budget, and not for the hour's.
    """
    about = f"Mediround{kind}"
    fast, slow, lasting = (about + speed for speed in ("Fast", "Slow", "Lasting"))
    whole = f"{fast} {slow} {lasting}"
    for share, alerts in zip(shares, (whole, f"{slow} {lasting}", lasting, lasting, ""), strict=True):
        yield scenario(f"{kind} {share}", about, course(kind, (425, 100, share)), at_7h=alerts)
    begin = course(kind, (360, 100, 0), (60, 100, much))
    yield scenario(f"{kind} begin", about, begin, **{"at_6h": "", f"at_6h{soon}m": lasting})
    later = course(kind, (1380, 100, 0), (60, 100, much))
    yield scenario(f"{kind} begin after a day", about, later, **{f"at_23h{soon}m": ""})
    end = course(kind, (180, 100, 0), (180, 100, much), (425, 100, 0))
    over = {"at_6h10m": f"{slow} {lasting}", "at_6h40m": lasting, "at_13h": ""}
    yield scenario(f"{kind} end", about, end, at_6h=whole, **over)
    for hourly, alerts in {30: whole, 12: f"{slow} {lasting}", 5: f"{slow} {lasting}", 2: lasting}.items():
        few = course(kind, (425, hourly / 60, shares[0]))
        yield scenario(f"{kind}, {hourly} rounds an hour", about, few, at_7h=alerts)


def changing(part: str, whole: str, rate: float, before: float, after: float, **labels: str) -> dict[str, str]:
    """Ten hours one share of ``rate`` a minute, then two hours another."""
    return {
        series(part, **labels): counter((600, rate * before), (120, rate * after)),
        series(whole, **labels): counter((720, rate)),
    }


def embeddings(rate: float, before: float, after: float) -> dict[str, str]:
    """Lookups a minute, and the share that finds."""
    hits, misses = (series(f"mediround_cache_{found}_total", cache="embedding") for found in ("hits", "misses"))
    return {
        hits: counter((600, rate * before), (120, rate * after)),
        misses: counter((600, rate * (1 - before)), (120, rate * (1 - after))),
    }


def corrections(masks: float, before: tuple[float, float], after: tuple[float, float]) -> dict[str, str]:
    """Masks a minute, all with a score. Which part of them may be corrected, and of those, the share that is."""
    (may, are), (may_then, are_then) = before, after
    return {
        series("mediround_decode_batch_masks_sum"): counter((720, masks)),
        series("mediround_judge_score_count"): counter((720, masks)),
        series(CORRECTED[1]): counter((600, masks * may), (120, masks * may_then)),
        series(CORRECTED[0]): counter((600, masks * may * are), (120, masks * may_then * are_then)),
    }


CORRECTED = ("mediround_corrected_masks_total", "mediround_correctable_masks_total")
EMPTY = ("mediround_empty_masks_total", "mediround_decode_batch_masks_sum")
FAULTS = ("INTERNAL", "UNAVAILABLE")
"""Of the codes; the others are the caller's doing, or a question of capacity."""
ERRORS = "MediroundErrorsFast MediroundErrorsSlow MediroundErrorsLasting"
DRIFT, COLLAPSE, BLANK = "MediroundCorrectedShareDrift", "MediroundEmbeddingCacheCollapse", "MediroundEmptyMasks"
CALLS = {series("mediround_calls_total", method="AskRound", code="OK"): counter((60, 100))}
SHED = series("mediround_shed_total", reason="queue")
SESSIONS = {series("mediround_sessions_limit"): "100x60"}


def waiting(priority: str) -> str:
    return series("mediround_queue_age_seconds", priority=priority)


def gone(name: str, about: str, values: Mapping[str, str], /, **firing: str) -> Scenario:
    """Without the idle service."""
    made = scenario(name, about, values, **firing)
    return Scenario(made.name, made.about, dict(values), made.firing)


SCENARIOS = [
    scenario("idle", "MediroundMetricsAbsent", {}, at_6m=""),
    *(
        scenario(
            f"most end {code}",
            "MediroundErrors",
            course("Errors", (425, 100, 0.9), code=code),
            at_7h=ERRORS if code in FAULTS else "",
        )
        for code in CODES[1:]
    ),
    *burning("Errors", (0.1, 0.05, 0.02, 0.008, 0.003), 0.4, 10),
    *burning("Latency", (0.8, 0.5, 0.2, 0.08, 0.03), 1.0, 20),
    scenario(
        "few rounds are slow, and many batch rounds",
        "MediroundLatency",
        course("Latency", (425, 0.03, 1.0)) | course("Latency", (425, 100, 1.0), priority="batch"),
        at_7h="MediroundLatencyLasting",
    ),
    scenario(
        "batch rounds are slow, no other is",
        "MediroundLatency",
        course("Latency", (425, 20, 0.0)) | course("Latency", (425, 100, 1.0), priority="batch"),
        at_7h="",
    ),
    scenario("down", "MediroundDown", {series("up"): "1x10 0x20"}, at_10m="", at_12m="", at_14m="MediroundDown"),
    scenario(
        "language server down",
        "MediroundDown",
        {series("up", "mediround-language"): "1x10 0x20"},
        at_12m="",
        at_14m="MediroundDown",
    ),
    gone(
        "gone",
        "MediroundAbsent MediroundMetricsAbsent",
        {series("up"): "1x3 _x30", rounds("OK"): "0x3 _x30"},
        at_7m="",
        at_12m="",
        at_20m="MediroundAbsent",
    ),
    gone(
        "other metrics than ours",
        "MediroundMetricsAbsent",
        {series("up"): "1x30"},
        at_4m="",
        at_6m="MediroundMetricsAbsent",
    ),
    scenario(
        "an engine down",
        "MediroundEngineDown",
        {series("mediround_engine_up", engine="language"): "1x10 0x20"},
        at_10m="",
        at_11m30s="",
        at_13m="MediroundEngineDown",
    ),
    scenario("triton down", "TritonDown", {series("up", "triton"): "1x10 0x20"}, at_12m="", at_14m="TritonDown"),
    scenario(
        "a person waits",
        "MediroundQueueOld",
        {waiting("interactive"): "4x10 6x10"},
        at_10m="",
        at_12m="",
        at_14m="MediroundQueueOld",
    ),
    scenario(
        "batch work waits",
        "MediroundBatchQueueOld",
        {waiting("batch"): "200x20 400x30"},
        at_20m="",
        at_34m="",
        at_38m="MediroundBatchQueueOld",
    ),
    scenario("sheds some", "MediroundSheds", CALLS | {SHED: counter((60, 4))}, at_50m=""),
    scenario("sheds", "MediroundSheds", CALLS | {SHED: counter((60, 7))}, at_8m="", at_15m="MediroundSheds"),
    scenario(
        "sessions",
        "MediroundSessionsNear",
        SESSIONS | {series("mediround_sessions_open"): "80x20 95x30"},
        at_20m="",
        at_29m="",
        at_35m="MediroundSessionsNearLimit",
    ),
    scenario("embeddings found less often", COLLAPSE, embeddings(6, 0.9, 0.5), at_11h=""),
    scenario(
        "embeddings hardly found",
        COLLAPSE,
        embeddings(6, 0.9, 0.3),
        at_10h10m="",
        at_10h25m="",
        at_10h40m=COLLAPSE,
    ),
    scenario("embeddings never found", COLLAPSE, embeddings(6, 0, 0), at_11h=""),
    scenario("few embeddings looked up", COLLAPSE, embeddings(2, 1, 0), at_11h=""),
    scenario("corrected as ever", DRIFT, changing(*CORRECTED, 3, 0.3, 0.4), at_11h50m=""),
    scenario("more corrected", DRIFT, changing(*CORRECTED, 3, 0.3, 0.5), at_11h10m="", at_11h50m=DRIFT),
    scenario("fewer corrected", DRIFT, changing(*CORRECTED, 3, 0.5, 0.3), at_11h50m=DRIFT),
    scenario("few correctable", DRIFT, changing(*CORRECTED, 1, 0, 1), at_11h50m=""),
    scenario("few correctable of many", DRIFT, corrections(10, (0.1, 0), (0.1, 1)), at_11h50m=""),
    scenario("fewer correctable of many", DRIFT, corrections(10, (1, 0.4), (0.3, 0.4)), at_11h50m=""),
    scenario("some empty", BLANK, changing(*EMPTY, 3, 0.02, 0.15), at_11h50m=""),
    scenario("many empty, and no judge", BLANK, changing(*EMPTY, 3, 0.02, 0.3), at_11h5m="", at_11h50m=BLANK),
    scenario("few masks, empty", BLANK, changing(*EMPTY, 1, 0.02, 0.3), at_11h50m=""),
]
