"""What the alerts about calls, kept sessions and those that give way are for, as ``scenarios`` has it for others.

Knows the rules. Does not know how promtool is run.
"""

from __future__ import annotations

from serving.telemetry.metrics import CODES
from tests.deploy.scenarios import FAULTS, SESSIONS, counter, scenario, series

CALLS_FAIL, STORE_FAILS, GIVE_WAY = "MediroundCallsFail", "MediroundStoreFails", "MediroundSessionsGiveWay"


def calls(method: str, a_minute: float, failing: float, code: str = "UNAVAILABLE") -> dict[str, str]:
    """Half an hour of them, and the share that fails from the tenth minute on."""
    well, ill = (series("mediround_calls_total", method=method, code=each) for each in ("OK", code))
    return {
        well: counter((10, a_minute), (20, a_minute * (1 - failing))),
        ill: counter((10, 0), (20, a_minute * failing)),
    }


def stored(failing: float, outcome: str = "unavailable") -> dict[str, str]:
    """Half an hour of writes, ten a minute, and the share that fails from the tenth minute on; reads do not."""
    named = {each: {"operation": each} for each in ("read", "write")}
    return {
        series("mediround_store_operations_total", **named["read"], outcome="ok"): counter((40, 1000)),
        series("mediround_store_operations_total", **named["write"], outcome="ok"): counter(
            (10, 10), (30, 10 * (1 - failing))
        ),
        series("mediround_store_operations_total", **named["write"], outcome=outcome): counter(
            (10, 0), (30, 10 * failing)
        ),
    }


def crowded(gave_way: float, refused: float) -> dict[str, str]:
    """Sessions a minute, from the tenth minute on, with a quarter of the places free."""
    return {
        **SESSIONS,
        series("mediround_sessions_open"): "75x60",
        series("mediround_sessions_gave_way_total"): counter((10, 0), (50, gave_way)),
        series("mediround_shed_total", reason="sessions"): counter((10, 0), (50, refused)),
    }


WITHIN = {
    **calls("GetMask", 20, 0.05),
    **calls("KeepAlive", 0.6, 1),  # few
    **{
        name: values
        for number, code in enumerate(code for code in CODES[1:] if code not in FAULTS)
        for name, values in calls(f"Method{number}", 10, 0.9, code).items()
    },
}
"""Calls that fail, of which nobody need be told: seldom, too few, or by their callers' doing."""
UPLOADS = {series("mediround_shed_total", reason="uploads"): counter((60, 2))}
FULL, GONE = stored(0.1, "full"), stored(0.1, "unavailable")
MOST_ASK = calls("AskRound", 1000, 0)

CALL_SCENARIOS = [
    scenario(
        "openings end INTERNAL",
        CALLS_FAIL,
        MOST_ASK | calls("OpenSession", 10, 0.2, "INTERNAL"),
        at_10m="",
        at_16m="",
        at_20m=CALLS_FAIL,
    ),
    scenario("openings end UNAVAILABLE", CALLS_FAIL, MOST_ASK | calls("OpenSession", 2, 1), at_29m=CALLS_FAIL),
    scenario("calls fail now and then", CALLS_FAIL, WITHIN, at_20m="", at_29m=""),
    scenario("the store is full", STORE_FAILS, FULL, at_18m="", at_26m=STORE_FAILS),
    scenario("the store is gone", STORE_FAILS, GONE, at_18m="", at_26m=STORE_FAILS),
    scenario("few writes fail", STORE_FAILS, stored(0.03), at_29m=""),
    scenario("sessions give way", GIVE_WAY, crowded(1.2, 0), at_28m="", at_40m=GIVE_WAY),
    scenario("sessions are refused", GIVE_WAY, crowded(0, 1.2), at_28m="", at_40m=GIVE_WAY),
    scenario("few do either, and uploads are refused", GIVE_WAY, crowded(0.3, 0.2) | UPLOADS, at_50m=""),
]
