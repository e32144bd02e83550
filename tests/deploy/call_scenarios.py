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


def crowded(gave_way: float, refused: float, reason: str = "sessions") -> dict[str, str]:
    """Sessions a minute, from the tenth minute on, with a quarter of the places free."""
    return {
        **SESSIONS,
        series("mediround_sessions_open"): "75x60",
        series("mediround_sessions_gave_way_total"): counter((10, 0), (50, gave_way)),
        series("mediround_shed_total", reason=reason): counter((10, 0), (50, refused)),
    }


ASKED_WRONGLY = {
    name: values
    for number, code in enumerate(code for code in CODES[1:] if code not in FAULTS)
    for name, values in calls(f"Method{number}", 10, 0.9, code).items()
}

CALL_SCENARIOS = [
    *(
        scenario(
            f"openings end {code}",
            CALLS_FAIL,
            calls("AskRound", 1000, 0) | calls("OpenSession", 10, 0.9, code),
            at_10m="",
            at_14m="",
            at_20m=CALLS_FAIL,
        )
        for code in FAULTS
    ),
    scenario("calls end by their callers' doing", CALLS_FAIL, ASKED_WRONGLY, at_20m=""),
    scenario("some openings fail", CALLS_FAIL, calls("OpenSession", 20, 0.05), at_29m=""),
    scenario("more openings fail", CALLS_FAIL, calls("OpenSession", 20, 0.2), at_29m=CALLS_FAIL),
    scenario("few openings, which fail", CALLS_FAIL, calls("OpenSession", 0.6, 1), at_29m=""),
    scenario("enough openings, which fail", CALLS_FAIL, calls("OpenSession", 2, 1), at_29m=CALLS_FAIL),
    *(
        scenario(f"writes end {outcome}", STORE_FAILS, stored(0.9, outcome), at_18m="", at_25m=STORE_FAILS)
        for outcome in ("full", "unavailable")
    ),
    scenario("few writes fail", STORE_FAILS, stored(0.03), at_29m=""),
    scenario("some writes fail", STORE_FAILS, stored(0.1), at_29m=STORE_FAILS),
    scenario("sessions give way", GIVE_WAY, crowded(2, 0), at_24m="", at_40m=GIVE_WAY),
    scenario("sessions are refused", GIVE_WAY, crowded(0, 2), at_24m="", at_40m=GIVE_WAY),
    scenario("some do either", GIVE_WAY, crowded(0.5, 0.5), at_50m=GIVE_WAY),
    scenario("few give way", GIVE_WAY, crowded(0.3, 0.2), at_50m=""),
    scenario("uploads are refused", GIVE_WAY, crowded(0, 2, "uploads"), at_50m=""),
]
