"""What a given mask is worth, by how it is given: ``python -m training.given --sources DIR --out FILE``.

Each question of the development dialogues that is about another structure's side is asked three times of the
bundled model: about the true mask of that structure as a seed round, about the same mask sent with the question
(the first of its session), and about the mask that the model draws of it. The model answers in its own words,
always with a mask. Knows dialogues and the service's own flow. Does not train.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundle import load_bundle
from serving.domain import AnswerMode, Correction, CorrectionPolicy, GivenMask, Question
from serving.offline import offline
from serving.orchestrator import Orchestrator
from serving.pixels.masks import pack_mask
from training.features import rgb
from training.sources import fetch
from training.targets import Head, index, load_head
from training.views import View, clean
from training.vision import dice

HERE = Path(__file__).resolve().parent.parent
RELATIONS = ("mirror", "other_side", "same_side", "hemisphere")
ALWAYS = Correction(CorrectionPolicy.ALWAYS, 0.6)
CALLER = "given"


@dataclass(frozen=True, slots=True)
class Case:
    """A question about another structure."""

    view: View
    relation: str
    question: str
    target: str
    about: str
    """The structure that it is about."""
    asked_as: str
    """The question whose answer that is."""

    def truth(self, name: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return (self.view.labels & np.uint32(1 << index(name))) > 0


def cases(head: Head) -> list[Case]:
    """All of the development dialogues, in order."""
    listed = []
    for dialogue in json.loads((HERE / "dialogues_dev.json").read_text())["dialogues"]:
        view = clean(head, dialogue["z"])
        for one in dialogue["rounds"]:
            if one["relation"] in RELATIONS and one["refer_to"] is not None:
                before = dialogue["rounds"][one["refer_to"]]
                named = before["question"] if before["relation"] == "name" else f"Segment the {before['target']}."
                target, about = one["target"], before["target"]
                listed.append(Case(view, one["relation"], one["question"], target, about, named))
    return listed


def opening(case: Case, kind: str) -> list[Question]:
    """What is asked of a new session; the last answer counts."""
    mask = pack_mask(case.truth(case.about))
    words = f"It is the {case.about} [SEG]."
    if kind == "given":
        given = GivenMask(mask.digest, mask)
        return [Question(case.question, None, AnswerMode.GRAMMAR, given_mask=given)]
    first = Question(case.asked_as, None, AnswerMode.GRAMMAR)
    if kind == "seed":
        first = Question(case.asked_as, None, AnswerMode.FORCED, words, seed_mask=mask)
    return [first, Question(case.question, 0, AnswerMode.GRAMMAR)]


async def scored(orchestrator: Orchestrator, listed: list[Case]) -> AsyncIterator[tuple[str, str, float]]:
    """Kind, relation and Dice of each answer."""
    for case in listed:
        for kind in ("seed", "given", "own"):
            session = await orchestrator.open(CALLER, rgb(case.view.image))
            for question in opening(case, kind):
                result = await orchestrator.ask(session.session_id, CALLER, question, ALWAYS)
            await orchestrator.close(session.session_id, CALLER)
            if result.segmentation is None:
                raise AssertionError("an answer in mode GRAMMAR has a mask")
            yield kind, case.relation, dice(result.segmentation.mask.bits(), case.truth(case.target))


async def measured(listed: list[Case]) -> dict[str, dict[str, float | int]]:
    """Mean Dice by kind and relation."""
    found: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    async with offline(load_bundle(HERE), threads=1) as orchestrator:
        async for kind, relation, worth in scored(orchestrator, listed):
            found[kind][relation].append(worth)
            found[kind]["all"].append(worth)
    table: dict[str, dict[str, float | int]] = {"n": {name: len(each) for name, each in found["own"].items()}}
    for kind, relations in found.items():
        table[kind] = {name: round(float(np.mean(each)), 4) for name, each in relations.items()}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--sources", type=Path, required=True, help="directory of the public packages; fetched there"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON of mean Dice by kind and relation")
    arguments = parser.parse_args()
    head = load_head(fetch(arguments.sources).templates)
    table = asyncio.run(measured(cases(head)))
    arguments.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
