"""``mediround.templates``: what is read, what is refused and in which words, and what is asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mediround import AsyncClient, Client, InvalidArgument, Round, RoundResult
from mediround.templates import MAX_BYTES, TemplateError, ask, ask_async, available, load, loads
from mediround.testing import DESCRIPTION, Answer, serve
from mediround.window import Window

IMAGE = np.zeros((16, 16), np.uint8)
HEAD = 'name = "t"\nmodality = "MR"\nbody_part = "BRAIN"\nmodel = "m"\n'
FIRST = '[[questions]]\nname = "first"\nquestion = "Segment the liver."\n'
SECOND = '[[questions]]\nname = "second"\nquestion = "And the tumour?"\nrefer_to = "first"\n'
THIRD = '[[questions]]\nname = "third"\nquestion = "And the vessel?"\nrefer_to = "second"\n'
FREE = loads(HEAD + FIRST + SECOND + THIRD)
GIVEN = loads(HEAD + FIRST + 'answer = "It is the liver [SEG]."\n' + SECOND + 'answer = "The tumour [SEG]."\n')


def test_what_is_shipped_can_be_loaded_and_fits_its_name() -> None:
    assert len(available()) >= 3
    for name in available():
        template = load(name)
        assert (template.name, template.model, template.plane) == (name, "mediround-lite", "axial")
        assert template.description
        served = replace(DESCRIPTION, model_name="mediround-lite")
        assert template.check(served) == ()


def test_the_page_has_a_template_that_can_be_loaded_and_lists_what_is_shipped() -> None:
    page = (Path(__file__).parents[3] / "docs/templates.md").read_text()
    [text] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert [question.label for question in loads(text).questions] == [
        "left thalamus",
        "thalamus of the right side",
    ]
    assert set(re.findall(r"^\| `(brain-[\w-]+)` \|", page, re.MULTILINE)) == set(available())


def test_it_says_all_that_its_file_does(tmp_path: Path) -> None:
    words = '\nplane = "axial"\nmode = "grammar"\ndescription = "d"\nwindow = {center = 40, width = 400}\n'
    path = tmp_path / "liver.toml"
    path.write_text(HEAD + words + FIRST + 'label = "the liver"\n' + SECOND)
    template = load(path)
    assert (template.modality, template.body_part, template.plane) == ("MR", "BRAIN", "axial")
    assert (template.mode, template.description, template.window) == ("grammar", "d", Window(40, 400))
    assert [question.label for question in template.questions] == ["the liver", "second"]
    assert template.references == (None, 0)
    first, second = template.rounds()
    assert (first.question, first.refer_to, first.mode, first.answer) == (
        "Segment the liver.",
        None,
        "grammar",
        None,
    )
    assert second.refer_to == 0
    assert template.rounds(2)[1].refer_to == 2
    assert GIVEN.rounds()[1].mode == "forced"


def test_its_digest_is_of_what_it_says() -> None:
    assert loads("# a comment\n" + HEAD + FIRST + SECOND + THIRD).digest == FREE.digest
    assert loads(HEAD + FIRST + SECOND).digest != FREE.digest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "t.toml: name: is missing (and 4 more)"),
        (HEAD, "t.toml: questions: must hold at least one, each beginning with [[questions]]"),
        (HEAD + "a = [" * 9, "t.toml: the file: must be TOML: "),
        ("a = " + "[" * 9999, "t.toml: the file: is nested too deeply to be a template"),
        ("a." * 9999 + "a = 1", "t.toml: the file: must hold at most 1000 full stops"),
        ("#" * (MAX_BYTES + 1), f"t.toml: the file: must hold at most {MAX_BYTES} bytes"),
        (HEAD + 'planes = "axial"\n' + FIRST, "t.toml: planes: is no key of a template; did you mean plane?"),
        (HEAD + 'plane = "oblique"\n' + FIRST, "t.toml: plane: must be one of axial, coronal, sagittal, or left"),
        (HEAD.replace('"BRAIN"', '"brain"') + FIRST, "t.toml: body_part: must be a DICOM code string"),
        (HEAD.replace('"t"', '"../t"') + FIRST, "t.toml: name: must be small letters, digits and single hyphens"),
        (HEAD.replace('"t"', "7") + FIRST, "t.toml: name: must be a text in quotes, not a number"),
        (
            HEAD + "window = {center = nan, width = 0}\n" + FIRST,
            "t.toml: window.center: must be a number",
        ),
        (
            HEAD + "window = {center = 0, width = 0}\n" + FIRST,
            "t.toml: window.width: must be a finite number",
        ),
        (HEAD + "window = 1979-05-27\n" + FIRST, "t.toml: window: must be a table, not a date or time"),
        (HEAD + FIRST + FIRST, "t.toml: questions[1].name: must differ from the others': questions[0] is first"),
        (
            HEAD + SECOND + FIRST,
            "t.toml: questions[0].refer_to: must name an earlier question; it names questions",
        ),
        (HEAD + FIRST + THIRD, "t.toml: questions[1].refer_to: must name an earlier question (first)"),
        (
            HEAD + FIRST + 'refer_to = "first"\n',
            "t.toml: questions[0].refer_to: must name an earlier question; it ",
        ),
        (HEAD + FIRST + 'answer = "The liver."\n', "t.toml: questions[0].answer: must hold [SEG] exactly once"),
        (
            HEAD + FIRST + 'answer = "[SEG] <s>"\n',
            "t.toml: questions[0].answer: must not hold the reserved",
        ),
        (
            HEAD + FIRST.replace("liver", "[SEG]"),
            "t.toml: questions[0].question: must not hold the reserved",
        ),
        (
            HEAD + FIRST.replace("liver", "<\uff53>"),
            "t.toml: questions[0].question: must not hold the reserved",
        ),
        (HEAD + FIRST + 'label = "[SEG]"\n', "t.toml: questions[0].label: must not hold the reserved"),
        (HEAD + FIRST.replace("liver", "\\u0007"), "t.toml: questions[0].question: must not hold a control"),
        (HEAD + FIRST.replace("liver", "x" * 2048), "t.toml: questions[0].question: must hold at most 2048 bytes"),
        (HEAD + FIRST * 65, "t.toml: questions: must hold at most 64; it holds 65"),
    ],
)
def test_a_refusal_names_file_key_and_fix(text: str, told: str) -> None:
    with pytest.raises(TemplateError) as caught:
        loads(text, "t.toml")
    assert str(caught.value).startswith(told)
    assert caught.value.violations


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        loads(HEAD + "".join(f'{key} = "x"\n' for key in ("a", "b")) + FIRST + 'answer = "no"\n')
    assert [violation.field for violation in caught.value.violations] == ["a", "b", "questions[0].answer"]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda path: None, "x.toml: the file: is missing; is the path right?"),
        (lambda path: path.mkdir(), "x.toml: the file: must be a file"),
        (lambda path: path.write_bytes(b"\xff"), "x.toml: the file: must be UTF-8"),
        (lambda path: path.write_bytes(b"#" * (MAX_BYTES + 1)), "x.toml: the file: must hold at most"),
        (lambda path: path.symlink_to(path), r"x.toml: the file: cannot be read"),
    ],
)
def test_a_file_that_is_none_is_told(made: Callable[[Path], object], told: str, tmp_path: Path) -> None:
    made(tmp_path / "x.toml")
    with pytest.raises(TemplateError) as caught:
        load(tmp_path / "x.toml")
    assert str(caught.value).startswith(told)


def test_a_name_that_is_not_shipped_is_told_with_those_that_are() -> None:
    with pytest.raises(TemplateError, match=r"no template of that name is shipped; there are brain-t1-.*or give"):
        load("liver")


def test_a_server_that_cannot_be_asked_so_is_told_before() -> None:
    limits = replace(DESCRIPTION.limits, max_rounds=2, max_question_bytes=16)
    with pytest.raises(TemplateError) as caught:
        FREE.check(replace(DESCRIPTION, limits=limits))
    assert [violation.field for violation in caught.value.violations] == ["questions", "questions[0]"]
    with pytest.raises(TemplateError, match="mode: must be one of the server's"):
        GIVEN.check(replace(DESCRIPTION, answer_modes=("free",)))
    assert FREE.check(DESCRIPTION) == ("template t was written for m; the server has scripted",)


ANSWERS = {"Segment the liver.": Answer(score=0.4), "And the tumour?": Answer(None)}


def test_a_question_about_what_has_no_mask_is_not_asked() -> None:
    with serve(ANSWERS) as server, Client(server.address) as client, client.open(IMAGE) as session:
        check(ask(session, FREE), {"liver", "tumour"}, [question.text for question in server.asked])


async def test_nor_by_the_client_for_asyncio() -> None:
    async with serve(ANSWERS) as server, AsyncClient(server.address) as client, client.open(IMAGE) as session:
        check(await ask_async(session, FREE), {"liver", "tumour"}, [question.text for question in server.asked])


def check(answers: list[RoundResult | None], words: set[str], asked: list[str]) -> None:
    first, second, third = answers
    assert first is not None
    assert second is not None
    assert (first.mask is not None, second.mask, third) == (True, None, None)
    assert (first.corrected, second.corrected) == (True, False)  # a later question refers to the first alone
    assert len(asked) == len(words)


async def test_given_answers_and_seeds_are_asked_together() -> None:
    mask = np.eye(16, dtype=np.bool_)
    seeded = [
        Round("The left one.", seed=mask, answer="It is [SEG].", origin="by hand"),
        Round("The right one.", 0),
    ]
    with serve() as server, Client(server.address) as client, client.open(IMAGE) as session:
        assert [each.index for each in ask(session, GIVEN) if each] == [0, 1]
        again = ask(session, GIVEN, first=2)
        assert [each.reference.index for each in again if each and each.reference] == [2]
        answers = ask(session, seeded)
    assert answers[0] is not None
    assert answers[1] is not None
    assert answers[0].seeded
    assert answers[1].reference is not None
    assert answers[1].reference.round_id == answers[0].round_id
    async with serve() as server, AsyncClient(server.address) as client, client.open(IMAGE) as session:
        answers = await ask_async(session, seeded)
        assert [each.index for each in await ask_async(session, GIVEN, first=2) if each] == [2, 3]
    assert answers[0] is not None
    assert answers[0].seeded


LEFT, RIGHT = np.eye(16, dtype=np.bool_), np.eye(16, dtype=np.bool_)[::-1]
ABOUT = [
    Round("The left one.", seed=LEFT, answer="It is [SEG]."),
    Round("The right one.", 0, seed=RIGHT, answer="It is [SEG].", origin="by hand"),
    Round("The vessel.", 1),
]


def test_a_seed_may_refer_to_a_round() -> None:
    with serve() as server, Client(server.address) as client, client.open(IMAGE) as session:
        check_seeds(ask(session, ABOUT))
        assert [question.text for question in server.asked] == ["The vessel."]
        assert [each.origin for each in session.history()] == ["", "by hand", ""]


async def test_it_may_by_the_client_for_asyncio() -> None:
    async with serve() as server, AsyncClient(server.address) as client, client.open(IMAGE) as session:
        check_seeds(await ask_async(session, ABOUT))
        assert [question.text for question in server.asked] == ["The vessel."]
        again = await ask_async(session, [replace(each, answer="Here [SEG].") for each in ABOUT], first=3)
        assert [each.reference and each.reference.index for each in again if each] == [None, 3, 4]
        check_seeds(again)


def check_seeds(answers: list[RoundResult | None]) -> None:
    left, right, vessel = answers
    assert left is not None
    assert right is not None
    assert vessel is not None
    assert (left.seeded, right.seeded, vessel.seeded) == (True, True, False)
    assert right.mask is not None
    np.testing.assert_array_equal(right.mask, RIGHT)
    assert right.reference is not None
    assert right.reference.round_id == left.round_id
    assert vessel.reference is not None
    assert vessel.reference.round_id == right.round_id


def test_rounds_that_refer_to_none_before_them_are_refused() -> None:
    told = pytest.raises(InvalidArgument, match=r"rounds\[0\].refer_to: must be the index of an earlier round")
    with serve() as server, Client(server.address) as client, client.open(IMAGE) as session, told:
        ask(session, [Round("a", 0)])
