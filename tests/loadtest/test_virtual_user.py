"""How a caller behaves: retries, cancels, hurries, refers."""

from __future__ import annotations

import pytest

from mediround.v1 import segmentation_pb2 as pb
from tests.loadtest.conftest import Against, scenario
from tests.loadtest.scripted import ScriptedServer


async def test_a_retry_delay_is_honoured_and_its_wait_counts(against: Against) -> None:
    server = ScriptedServer(refuse=3, retry_after=0.3)
    ran = await against(server, scenario(rate=10, duration=1.0))
    assert ran.report.overall.answered == 10
    assert ran.report.told_to_retry == ran.report.retried == 3
    assert server.arrived == 13
    assert ran.report.overall.from_due.largest >= 0.3


async def test_a_retry_delay_may_be_counted_instead(against: Against) -> None:
    ran = await against(ScriptedServer(refuse=3), scenario(calls={"retry": "count"}))
    assert ran.report.outcomes == {"answered": 7, "exhausted": 3}
    assert (ran.report.told_to_retry, ran.report.retried) == (3, 0)
    assert ran.report.verdict.result == "missed"


async def test_what_follows_a_failed_round_is_abandoned_and_counts(against: Against) -> None:
    talk = {"rounds": (4, 4), "think": 0.0}
    asked = scenario(rate=1, duration=1.0, dialogues=talk, calls={"retry": "count"})
    ran = await against(ScriptedServer(refuse=1), asked)
    assert ran.report.outcomes == {"exhausted": 1, "abandoned": 3}


async def test_cancelled_and_hurried_rounds_are_given_up_and_neither_answered_nor_failed(against: Against) -> None:
    calls = {"cancel_share": 0.5, "cancel_after": 0.05, "deadline_share": 0.5, "deadline": 0.05}
    server = ScriptedServer(delay=1.0)
    ran = await against(server, scenario(rate=20, duration=1.0, calls=calls))
    assert set(ran.report.outcomes) == {"cancelled", "hurried"}
    assert ran.report.overall.given_up == 20
    assert server.here == 0  # the server was told


HURRIED = {"deadline_share": 1.0, "deadline": 0.3}
both_modes = pytest.mark.parametrize("mode", ["live", "known"])


@both_modes
@pytest.mark.parametrize(("retry", "attempts"), [("honour", 4), ("count", 1)])
async def test_a_hurried_round_that_is_refused_to_the_end_is_given_up_and_the_dialogue_goes_on(
    against: Against, mode: str, retry: str, attempts: int
) -> None:
    server = ScriptedServer(refuse=1000, retry_after=0.01)
    talk = {"mode": mode, "rounds": (3, 3), "think": 0.0}
    ran = await against(server, scenario(rate=1, dialogues=talk, calls=HURRIED | {"retry": retry}))
    assert ran.report.outcomes == {"hurried": 3}
    assert server.arrived == attempts * (3 if mode == "live" else 1)


@both_modes
async def test_a_hurried_round_has_one_deadline_for_all_its_attempts(against: Against, mode: str) -> None:
    server = ScriptedServer(refuse=1, retry_after=0.2, delay=0.2)
    ran = await against(server, scenario(rate=1, dialogues={"mode": mode}, calls=HURRIED))
    assert ran.report.outcomes == {"hurried": 1}
    assert ran.report.retried == 1


@both_modes
async def test_a_hurried_round_is_not_sent_again_after_its_deadline(against: Against, mode: str) -> None:
    server = ScriptedServer(refuse=1, retry_after=1.0)
    ran = await against(server, scenario(rate=1, dialogues={"mode": mode}, calls=HURRIED))
    assert ran.report.outcomes == {"hurried": 1}
    assert (ran.report.told_to_retry, ran.report.retried, server.arrived) == (1, 0, 1)


@both_modes
async def test_a_hurried_round_that_comes_back_in_time_is_answered(against: Against, mode: str) -> None:
    calls = HURRIED | {"deadline": 5.0}
    server = ScriptedServer(refuse=1, retry_after=0.01)
    ran = await against(server, scenario(rate=1, dialogues={"mode": mode}, calls=calls))
    assert ran.report.outcomes == {"answered": 1}
    assert server.arrived == 2


@both_modes
async def test_an_opening_that_times_out_is_no_hurried_round(against: Against, mode: str) -> None:
    talk = {"mode": mode, "rounds": (3, 3), "think": 0.0}
    asked = scenario(rate=1, dialogues=talk, calls=HURRIED | {"timeout": 0.2})
    ran = await against(ScriptedServer(open_delay=1.0), asked)
    assert ran.report.outcomes == {"timed_out": 1, "abandoned": 2}


async def test_a_dialogue_goes_on_after_a_round_that_was_given_up(against: Against) -> None:
    calls = {"cancel_share": 0.5, "cancel_after": 0.02}
    talk = {"rounds": (6, 6), "think": 0.0}
    server = ScriptedServer(delay=0.1)
    ran = await against(server, scenario(rate=5, duration=1.0, dialogues=talk, calls=calls), seed=3)
    assert set(ran.report.outcomes) == {"answered", "cancelled"}
    assert sum(ran.report.outcomes.values()) == 30
    referred = [r.question.refer_to.round for r in server.asked if r.question.HasField("refer_to")]
    assert referred


async def test_the_shapes_refer_as_they_say(against: Against) -> None:
    talk = {"rounds": (4, 4), "think": 0.0, "shapes": {"chain": 0, "star": 1}}
    server = ScriptedServer()
    await against(server, scenario(rate=1, duration=1.0, dialogues=talk))
    references = [r.question.refer_to.round if r.question.HasField("refer_to") else None for r in server.asked]
    assert references == [None, 0, 0, 0]


@both_modes
async def test_forced_answers_are_given_and_free_ones_are_not(against: Against, mode: str) -> None:
    talk = {"mode": mode, "rounds": (3, 3), "think": 0.0}
    for answers, wanted in (("forced", pb.ANSWER_MODE_FORCED), ("free", pb.ANSWER_MODE_FREE)):
        server = ScriptedServer()
        ran = await against(server, scenario(rate=1, dialogues=talk | {"answers": answers}))
        assert ran.report.outcomes == {"answered": 3}
        questions = [r.question for r in server.asked] + [q for r in server.known for q in r.questions]
        assert [q.answer_mode for q in questions] == [wanted] * 3
        assert [bool(q.answer) for q in questions] == [answers == "forced"] * 3


async def test_dialogues_known_in_advance_count_each_round_from_their_start(against: Against) -> None:
    talk = {"mode": "known", "rounds": (3, 3)}
    ran = await against(ScriptedServer(delay=0.1), scenario(rate=5, duration=1.0, dialogues=talk))
    assert ran.report.outcomes == {"answered": 15}
    last = ran.report.rounds[-1]
    assert last.name == "2"
    assert last.from_due.percentiles[0].seconds >= 0.3


async def test_a_known_dialogue_that_is_cancelled_keeps_what_it_had(against: Against) -> None:
    talk = {"mode": "known", "rounds": (10, 10)}
    calls = {"cancel_share": 1.0, "cancel_after": 0.5}
    ran = await against(ScriptedServer(delay=0.15), scenario(rate=2, duration=1.0, dialogues=talk, calls=calls))
    assert ran.report.outcomes["answered"] >= 2
    assert ran.report.outcomes["cancelled"] >= 10


async def test_images_are_reused_as_often_as_asked_and_otherwise_new(against: Against) -> None:
    server = ScriptedServer()
    await against(server, scenario(rate=40, duration=1.0))
    assert len(set(server.headers)) == 40
    server = ScriptedServer()
    await against(server, scenario(rate=40, duration=1.0, images={"reuse": 1.0}))
    assert len(set(server.headers)) == 1


async def test_sessions_are_closed_and_answers_tell_of_caches(against: Against) -> None:
    server = ScriptedServer()
    talk = {"rounds": (2, 2), "think": 0.0}
    ran = await against(server, scenario(rate=10, duration=1.0, dialogues=talk))
    assert server.opened == 10
    assert server.closed >= 9  # the run ends with the last answer
    assert ran.report.seen.embedding_hits == 10
    assert (ran.report.seen.cached_tokens, ran.report.seen.prompt_tokens) == (100, 300)


async def test_a_share_of_dialogues_asks_with_low_priority(against: Against) -> None:
    server = ScriptedServer()
    await against(server, scenario(rate=40, duration=1.0, dialogues={"batch_share": 0.5}))
    batch = sum(request.priority == pb.PRIORITY_BATCH for request in server.asked)
    assert 8 <= batch <= 32
    assert {request.priority for request in server.asked} == {pb.PRIORITY_BATCH, pb.PRIORITY_INTERACTIVE}
    server = ScriptedServer()
    await against(server, scenario(rate=4, dialogues={"mode": "known", "batch_share": 1.0}))
    assert {request.priority for request in server.known} == {pb.PRIORITY_BATCH}
