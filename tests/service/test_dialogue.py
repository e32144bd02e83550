"""Dialogues through a real server, with both clients."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mediround
from mediround import AsyncClient, Client, Round
from serving.api.server import Server
from tests.service.harness import MODEL_DIGEST, Stage, picture

ASKED = [
    Round("Segment the liver."),
    Round("Segment the tumor in it.", refer_to=0),
    Round("Segment the kidney.", answer="Sure, [SEG]."),
    Round("Segment the other one.", refer_to=2),
]


async def test_rounds_refer_to_earlier_ones(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        first = await session.ask("Segment the liver.")
        second = await session.ask("Segment the tumor in it.", refer_to=first)
        third = await session.ask("And the vessel.", refer_to=0)
    assert [first.index, second.index, third.index] == [0, 1, 2]
    assert first.answer == "It is [SEG]."
    assert first.reference is None
    assert second.reference is not None
    assert second.reference.index == third.reference.index == 0
    assert second.reference.box == first.box
    assert first.model_digest == MODEL_DIGEST


async def test_a_result_is_whole(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        result = await session.ask("Segment the liver.")
    assert result.mask.shape == (48, 64)
    assert result.mask.dtype == np.bool_
    assert result.area == np.count_nonzero(result.mask) > 0
    rows, columns = np.nonzero(result.mask)
    assert result.box == mediround.Box(columns.min(), rows.min(), columns.max(), rows.max())
    assert 0 < result.score < 1
    assert 0 < result.seg_probability <= 1
    assert result.timings.total >= result.timings.language >= 0
    assert result.cache.prompt_tokens > 0


async def test_a_dialogue_known_in_advance_equals_the_rounds_one_by_one(client: AsyncClient) -> None:
    at_once = [result async for result in client.segment(picture(), ASKED, correction="off")]
    async with client.open(picture()) as session:
        one_by_one = [
            await session.ask(r.question, refer_to=r.refer_to, answer=r.answer, correction="off") for r in ASKED
        ]
    assert [result.cache.wave for result in at_once] == [0, 1, 1, 2]
    assert [result.answer for result in at_once] == [result.answer for result in one_by_one]
    for left, right in zip(at_once, one_by_one, strict=True):
        np.testing.assert_array_equal(left.mask, right.mask)


async def test_both_clients_get_the_same(server: Server, client: AsyncClient) -> None:
    def blocking() -> list[mediround.RoundResult]:
        with Client(server.address) as other:
            return list(other.segment(picture(), ASKED))

    theirs = await asyncio.to_thread(blocking)
    ours = [result async for result in client.segment(picture(), ASKED)]
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(left.mask, right.mask)
        assert (left.answer, left.score, left.corrected) == (right.answer, right.score, right.corrected)


async def test_the_blocking_client_asks_round_by_round(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "slice.png"
    Image.fromarray(picture()).save(path)

    def blocking() -> tuple[mediround.RoundResult, mediround.RoundResult]:
        with Client(server.address) as client, client.open(path) as session:
            first = session.ask("Segment the liver.")
            return first, session.ask("Segment the tumor in it.", refer_to=first)

    first, second = await asyncio.to_thread(blocking)
    assert (first.index, second.index) == (0, 1)
    assert second.reference.box == first.box


async def test_every_form_of_an_image_is_the_same_image(client: AsyncClient, tmp_path: Path) -> None:
    pixels = picture()
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    path = tmp_path / "slice.png"
    path.write_bytes(encoded.getvalue())
    masks = []
    for image in (path, str(path), encoded.getvalue(), pixels, Image.fromarray(pixels)):
        async with client.open(image) as session:
            masks.append((await session.ask("Segment the liver.")).mask)
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


async def test_grey_pixels_are_three_equal_channels(client: AsyncClient) -> None:
    grey = picture()[..., 0]
    masks = []
    for image in (grey, np.repeat(grey[..., np.newaxis], 3, axis=2), Image.fromarray(grey)):
        async with client.open(image) as session:
            masks.append((await session.ask("Segment the liver.")).mask)
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])


async def test_an_answer_without_a_mask(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        spoken = await session.ask("Can you hear me?", mode="free")
        with pytest.raises(mediround.FailedPrecondition, match="no mask"):
            await session.ask("Segment it.", refer_to=spoken)
        after = await session.ask("Segment the liver.", mode="free")
    assert (spoken.answer, spoken.mask, spoken.area, spoken.box) == ("Yes.", None, 0, None)
    assert (spoken.score, spoken.seg_probability, spoken.corrected) == (None, None, False)
    assert (after.index, after.answer) == (1, "Here [SEG].")


async def test_a_threshold_of_the_callers_own(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        judged = await session.ask("Segment the liver.", threshold=1.0)
        kept = await session.ask("Segment the liver.", threshold=0.0)
        off = await session.ask("Segment the liver.", correction="off", threshold=1.0)
    assert (judged.corrected, kept.corrected, off.corrected) == (True, False, False)


async def test_the_server_describes_itself(client: AsyncClient, stage: Stage) -> None:
    described = await client.describe()
    assert described.model_name == "made-up"
    assert described.model_digest == MODEL_DIGEST
    assert described.answer_modes == ("forced", "grammar", "free")
    assert described.default_answer_mode == "forced"
    assert described.answer_template_trained
    assert described.correction_policies == ("always", "referenced", "off")
    assert described.mask_encodings == ("coco_rle", "packed_bits", "png")
    assert described.limits.max_rounds == 6
    assert described.limits.max_tokens == stage.manifest.language.max_tokens
    assert described.limits.session_idle_timeout == 60.0
    assert described.threshold == pytest.approx(0.6)
