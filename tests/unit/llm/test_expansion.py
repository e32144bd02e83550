"""Where tokens, pictures and boxes stand once the image is expanded."""

from __future__ import annotations

import numpy as np

from serving.llm.expansion import CROP_ROW, Expanded, expand
from tests.scripted.pictures import reference
from tests.scripted.prompts import draft
from tests.unit.serving.manifests import manifest

MODEL = manifest()
TOKENS, PATCHES = MODEL.tokens, MODEL.tower.tokens
SHOWN = [reference(MODEL, seed) for seed in (1, 2)]


def example() -> Expanded:
    """bos w [image] w | crop box w(read) seg w eos | crop box w(read)"""
    rounds = draft(MODEL).refer_to(SHOWN[0]).say(1).read().close().refer_to(SHOWN[1]).say(2).read()
    return expand(rounds.prompt(), MODEL)


def test_the_image_stands_for_its_patches() -> None:
    expanded = example()
    assert expanded.ids[2 : 2 + PATCHES].tolist() == [TOKENS.image] * PATCHES
    assert expanded.ids[:2].tolist() == [TOKENS.bos, expanded.ids[1]]
    assert len(expanded) == expanded.ids.size == 4 + 6 + 3 + PATCHES - 1


def test_features_are_read_at_the_same_tokens() -> None:
    expanded = example()
    seg = np.flatnonzero(expanded.ids == TOKENS.seg)
    assert expanded.feature_positions == (seg[0] - 1, len(expanded) - 1)


def test_media_stand_in_the_order_of_the_prompt() -> None:
    media = example().media
    crops = np.flatnonzero(example().ids == TOKENS.crop)
    assert media.positions.tolist() == [*range(2, 2 + PATCHES), *crops]
    assert media.pictures.tolist() == [0] * PATCHES + [1, 2]
    assert media.rows.tolist() == [*range(PATCHES), CROP_ROW, CROP_ROW]


def test_what_is_left_after_a_beginning() -> None:
    expanded = example()
    crops = np.flatnonzero(expanded.ids == TOKENS.crop)
    rest = expanded.media.since(int(crops[0]))
    assert rest.pictures.tolist() == [1, 2]
    assert expanded.media.since(4).rows.tolist() == [*range(2, PATCHES), CROP_ROW, CROP_ROW]
    assert expanded.media.since(len(expanded)).pictures.size == 0
    boxes = np.stack([SHOWN[0].box, SHOWN[1].box])
    assert np.array_equal(expanded.boxes_since(0), boxes)
    assert np.array_equal(expanded.boxes_since(int(crops[0]) + 1), boxes)
    assert np.array_equal(expanded.boxes_since(int(crops[0]) + 2), boxes[1:])
    assert expanded.boxes_since(len(expanded)).shape == (0, 4)


def test_contents_tell_pictures_and_boxes_apart() -> None:
    expanded = example()
    crop, box = np.flatnonzero(expanded.ids == TOKENS.crop), np.flatnonzero(expanded.ids == TOKENS.bbox)
    assert [expanded.tokens[at] for at in crop] == [shown.crop.digest for shown in SHOWN]
    assert [expanded.tokens[at] for at in box] == [shown.box.tobytes() for shown in SHOWN]
    digest = expanded.pictures[0].digest
    assert expanded.tokens[2 : 2 + PATCHES] == tuple((digest, patch) for patch in range(PATCHES))
    assert all(type(token) is int for token in expanded.tokens[:2])
