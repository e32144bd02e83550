"""What the alerts about batch runs are for, as ``scenarios`` has it for the others.

Knows the rules and the metrics of a batch run. Does not know how promtool is run.
"""

from __future__ import annotations

from tests.deploy.scenarios import counter, scenario, series

BATCH = "MediroundBatch"
ABOUT = " ".join(f"{BATCH}{what}" for what in ("Stalled", "Failing", "GivenUp", "Stale", "Unscraped"))


def metric(name: str, **labels: str) -> str:
    return series(f"mediround_annotate_{name}", "node", run="r", shard="", **labels)


def at_work(
    finished: str, running: str = "1x100", window: str = "0x100", written: str = "0+60x100"
) -> dict[str, str]:
    """A run that writes its metrics each minute."""
    return {
        metric("running"): running,
        metric("finished_total"): finished,
        metric("waiting", reason="window"): window,
        metric("waiting", reason="service"): "1x100",
        metric("written_timestamp_seconds"): written,
        metric("ended", reason="finished"): "1x100",
        metric("ended", reason="failures"): "0x100",
    }


def failing(*legs: tuple[float, float, float]) -> dict[str, str]:
    """A leg: minutes, items finished a minute, and the share of them that fails."""
    return {
        metric("items", state="failed"): counter(*((minutes, rate * share) for minutes, rate, share in legs)),
        metric("items", state="ok"): counter(*((minutes, rate * (1 - share)) for minutes, rate, share in legs)),
        metric("items", state="left"): counter((100, 1000)),
    }


BATCH_SCENARIOS = [
    scenario("a batch run goes on", ABOUT, at_work("0+5x100"), at_40m=""),
    scenario("a batch run stalls", ABOUT, at_work(counter((20, 5), (80, 0))), at_45m="", at_55m=f"{BATCH}Stalled"),
    scenario("a batch run waits for its hours", ABOUT, at_work("0x100", window="1x100"), at_40m=""),
    scenario("a batch run has ended", ABOUT, at_work("0x100", "1x5 0x95", written="300x100"), at_40m=""),
    scenario("some items fail", ABOUT, failing((100, 3.3, 0.03)), at_40m=""),
    scenario("many items fail", ABOUT, failing((100, 3.3, 0.08)), at_45m=f"{BATCH}Failing"),
    scenario("all of few items fail", ABOUT, failing((100, 1, 1)), at_40m=""),
    scenario(
        "items begin to fail", ABOUT, failing((30, 10, 0), (30, 10, 0.5)), at_40m="", at_50m=f"{BATCH}Failing"
    ),
    scenario(
        "a batch run gives up",
        ABOUT,
        {metric("ended", reason="failures"): "0x10 1x20", metric("ended", reason="signal"): "1x30"},
        at_9m="",
        at_12m=f"{BATCH}GivenUp",
    ),
    scenario(
        "a batch run is killed",
        ABOUT,
        {metric("running"): "1x30", metric("written_timestamp_seconds"): "0+60x10 600x20"},
        at_14m30s="",
        at_17m=f"{BATCH}Stale",
    ),
    scenario(
        "a batch run is scraped no more",
        ABOUT,
        {metric("running"): "1x10 _x90"},
        at_18m="",
        at_22m=f"{BATCH}Unscraped",
    ),
    scenario("a batch run's file is removed", ABOUT, {metric("running"): "1x5 0x5 _x80"}, at_30m=""),
]
