"""One session in two sittings, between which the server is started again: a question is undone, a mask corrected
by hand, and the question asked again about the corrected mask.

Knows what is done in them, through the published client. The hand is the atlas'. Does not know the page's form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from demo.overlay import PicturePanel, strip
from demo.page import DialogueSection
from demo.slices import SliceDialogue, SliceQuestion, dice
from mediround import Client, PastRound, RoundResult

HEADER = ("what is done", "call", "what comes of it")
TITLE = "One session, two sittings: undone, corrected by hand, taken up by another server"


@dataclass(frozen=True, slots=True)
class FirstSitting:
    """What was done before the server ended."""

    dialogue: SliceDialogue
    about: SliceQuestion
    """A question about the first round."""
    session_id: str
    first: RoundResult
    undone: RoundResult
    amended: PastRound


def first_sitting(client: Client, dialogues: Iterable[SliceDialogue]) -> FirstSitting | None:
    """On the first dialogue with a question about its first round; None: there is none."""
    for dialogue in dialogues:
        about = next((asked for asked in dialogue.rounds if asked.refer_to == 0), None)
        if about is not None:
            return _begun(client, dialogue, about)
    return None


def second_sitting(client: Client, before: FirstSitting) -> DialogueSection:
    """The session is taken up where it was left."""
    session = client.resume(before.session_id, image=before.dialogue.path)
    held = session.history()
    again = session.ask(before.about.question, refer_to=before.amended)
    session.close()
    picture = strip(before.dialogue.image, _panels(before, again))
    return DialogueSection("two_sittings", TITLE, picture, HEADER, _rows(before, held, again))


def _begun(client: Client, dialogue: SliceDialogue, about: SliceQuestion) -> FirstSitting:
    with client.open(dialogue.path, keep=True) as session:
        first = session.ask(dialogue.rounds[0].question)
        undone = session.ask(about.question, refer_to=first)
        session.undo()
        amended = session.amend(first, dialogue.rounds[0].truth, origin="by hand")
        return FirstSitting(dialogue, about, session.session_id, first, undone, amended)


def _panels(before: FirstSitting, again: RoundResult) -> list[PicturePanel]:
    begun, about = before.dialogue.rounds[0], before.about
    first, undone = before.first, before.undone
    return [
        PicturePanel(f"Round 0. {begun.question}", _footing(first, begun), first.mask, None, begun.truth),
        PicturePanel(
            f"Round 1, undone. {about.question}", _footing(undone, about), undone.mask, first.mask, about.truth
        ),
        PicturePanel(
            "Round 0, corrected by hand (here: the atlas). Blue: the model's own mask, which stays readable.",
            f"{before.amended.answer}  amended",
            begun.truth,
            first.mask,
            None,
        ),
        PicturePanel(
            f"Round 1, after a restart. {about.question}",
            _footing(again, about),
            again.mask,
            begun.truth,
            about.truth,
        ),
    ]


def _footing(result: RoundResult, asked: SliceQuestion) -> str:
    return f"{result.answer}  Dice {dice(result.mask, asked.truth):.2f}"


def _rows(before: FirstSitting, held: tuple[PastRound, ...], again: RoundResult) -> list[list[str]]:
    used = again.reference
    source, origin = ("", "") if used is None else (used.source, used.origin)
    rounds = ", ".join(f"round {each.index}{' (amended)' if each.amended else ''}" for each in held)
    return [
        [
            "opened, to be kept",
            "client.open(image, keep=True)",
            "written to the server's file before it is answered",
        ],
        ["asked", "session.ask(...)", before.first.answer],
        ["asked about it", "session.ask(..., refer_to=first)", before.undone.answer],
        ["undone", "session.undo()", "the next question knows nothing of round 1"],
        ["corrected", 'session.amend(first, mask, origin="by hand")', "later questions are about this mask"],
        ["the server is stopped, and another started", "", "the session is parked in its file"],
        ["taken up", "client.resume(session_id, image=image)", f"it has {rounds}"],
        ["asked again", "session.ask(..., refer_to=amended)", f"{again.answer} Its reference: {source}, {origin}"],
    ]
