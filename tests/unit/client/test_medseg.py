"""The MR-MedSeg form: what is read of it, and what is refused with which words."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from mediround.medseg import AskedRound, DataError, Dialogue, parse, read_items
from tests.scripted.medseg import Item

ITEM: Item = {
    "task": "segmentation",
    "base": "[null]",
    "conversations": [
        {"from": "human", "value": "[IMAGE256:a/0.png] Segment the liver."},
        {"from": "gpt", "value": "It is [MASK-DECODE:m/0.png]."},
        {"from": "human", "value": "[MASK-ENCODE:m/0.png][BOX-ENCODE:m/0.png] And its tumor [T1]?", "ind": 0},
        {"from": "gpt", "value": "Sure, [REF-DECODE:m/0.png][MASK-DECODE:m/1.png]."},
        {"from": "human", "value": "Segment the spleen."},
        {"from": "gpt", "value": "[MASK-DECODE:m/2.png]."},
    ],
}


def test_tokens_become_words_and_paths() -> None:
    assert parse(ITEM) == Dialogue(
        image="a/0.png",
        rounds=(
            AskedRound("Segment the liver.", None, "It is [SEG].", "m/0.png"),
            AskedRound("And its tumor [T1]?", 0, "Sure, [SEG].", "m/1.png"),
            AskedRound("Segment the spleen.", None, "[SEG].", "m/2.png"),
        ),
    )


def changed(turn: int, **fields: object) -> Item:
    item = copy.deepcopy(ITEM)
    item["conversations"][turn] |= fields
    return item


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ([], "is not an object"),
        ({"conversations": []}, "task is not"),
        ({"task": "segmentation"}, "no list of turns"),
        ({"task": "segmentation", "conversations": []}, "no list of turns"),
        (ITEM | {"conversations": ITEM["conversations"][:3]}, "3 turns; human and gpt turns must come in pairs"),
        (ITEM | {"conversations": ["x", "y"]}, "turn 0: must be an object with a text"),
        (changed(0, value=7), "turn 0: must be an object with a text"),
        (changed(1, **{"from": "human"}), 'turn 1: is not from "gpt"'),
        (changed(0, value="Segment the liver."), "turn 0: begins with none; it must begin with [IMAGE256:path]"),
        (changed(0, ind=0), "turn 0: ind 0 must be the index of an earlier round"),
        (changed(2, ind=1), "turn 2: ind 1 must be the index of an earlier round"),
        (changed(2, ind=-1), "turn 2: ind -1 must be the index of an earlier round"),
        (changed(2, ind=True), "turn 2: ind must be a whole number"),
        (changed(2, ind="0"), "turn 2: ind must be a whole number"),
        (
            changed(2, ind=None),
            "turn 2: begins with [MASK-ENCODE:…][BOX-ENCODE:…]; it must begin with no bracket token",
        ),
        (changed(4, ind=0), "turn 4: begins with none; it must begin with [MASK-ENCODE:path][BOX-ENCODE:path]"),
        (changed(4, value="[IMAGE256:b.png] Again."), "turn 4: begins with [IMAGE256:…]; it must begin with no"),
        (changed(4, value="[AUDIO:b.wav] Again."), "turn 4: begins with [AUDIO:…]"),
        (changed(4, value="Segment [MASK-ENCODE:b.png] it."), "turn 4: [MASK-ENCODE: is unknown, misplaced"),
        (
            changed(0, value="[IMAGE256:a/0.png Segment it."),
            "turn 0: [IMAGE256: is unknown, misplaced or not closed",
        ),
        (changed(4, value="  "), "turn 4: asks nothing"),
        (changed(1, value="It is the liver."), "turn 1: holds 0 [MASK-DECODE:path]"),
        (changed(1, value="[MASK-DECODE:a][MASK-DECODE:b]"), "turn 1: holds 2 [MASK-DECODE:path]"),
        (changed(1, value="[MASK-DECODE:a] [SCORE:1]"), "turn 1: [SCORE: is unknown"),
        (changed(1, value="[MASK-DECODE:a] [MASK-DECODE:b"), "turn 1: [MASK-DECODE: is unknown"),
    ],
)
def test_an_item_out_of_form_is_refused_by_turn(item: object, words: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(item)
    assert words in str(caught.value)


def test_a_file_holds_a_list_or_one_item(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    for content in (ITEM, [ITEM]):
        path.write_text(json.dumps(content))
        assert read_items(path) == [ITEM]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[{", "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"[]", "holds no list of dialogues"),
        (b"7", "holds no list of dialogues"),
    ],
)
def test_a_file_that_is_no_list_is_refused_whole(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_items(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is --data right"):
        read_items(tmp_path / "none.json")
