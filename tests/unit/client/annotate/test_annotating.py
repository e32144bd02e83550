"""One item asked of a scripted server: its rows, and which errors are the item's."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mediround import InvalidArgument, ResourceExhausted, rle
from mediround.aio import AsyncClient
from mediround.annotate.annotating import Asking, annotate
from mediround.annotate.errors import ItemError
from mediround.annotate.items import GivenReference, Item, Question
from mediround.annotate.loading import load
from mediround.testing import Answer, Script, ScriptedServer, serve
from tests.unit.client.annotate.items import an_item
from tests.unit.client.annotate.jobs import png

ASKING = Asking("ab" * 32, "referenced", 0.5)
MASK = np.arange(64).reshape(8, 8) % 3 == 0
SCRIPT = Script(
    {
        "Nothing.": Answer(mask=None),
        "Once more.": [ResourceExhausted("busy", retry_after=0.25), Answer()],
        "Slow.": Answer(delay=0.25),
        "Never.": InvalidArgument("questions[0].text: must be other words"),
    },
    otherwise=Answer(mask=MASK, score=0.75),
)


def question(words: str, *, refer_to: int | None = None, answer: str | None = "It is [SEG].") -> Question:
    return Question("name", "Label", words, refer_to=refer_to, answer=answer)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serve(SCRIPT) as running:
        yield running


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address) as connected:
        yield connected


@pytest.fixture
def item(tmp_path: Path) -> Item:
    return an_item(
        tmp_path / "a.png", png(np.zeros((8, 8), np.uint8)), [question("First."), question("Second.", refer_to=0)]
    )


async def test_a_row_says_what_a_round_found(client: AsyncClient, item: Item) -> None:
    outcome = await annotate(client, item, load(item), ASKING)
    assert (outcome.status, [row.status for row in outcome.rows]) == ("ok", ["mask", "mask"])
    first, second = outcome.rows
    assert np.array_equal(rle.decode((second.counts or "").encode(), second.height, second.width), MASK)
    assert (second.score, second.area, second.refer_to, second.reference) == (0.75, int(MASK.sum()), 0, "round")
    assert (first.rounds, first.reference, first.run_key) == (2, "", ASKING.run_key)
    assert second.model_digest
    assert second.mask_digest


async def test_what_is_about_a_round_without_a_mask_is_not_asked(client: AsyncClient, item: Item) -> None:
    free = [
        question("Nothing.", answer=None),
        question("Its wall.", refer_to=0, answer=None),
        question("Other.", answer=None),
    ]
    outcome = await annotate(client, replace(item, questions=tuple(free)), load(item), ASKING)
    assert [row.status for row in outcome.rows] == ["no_mask", "not_asked", "mask"]


async def test_a_mask_of_the_archive_is_what_a_question_is_about(
    client: AsyncClient, server: ScriptedServer, item: Item, tmp_path: Path
) -> None:
    held = an_item(tmp_path / "mask.png", png(MASK.astype(np.uint8) * 7), [])
    asked = replace(question("Its wall."), reference=GivenReference(held.uri, held.sha256))
    about = replace(item, questions=(asked,))
    outcome = await annotate(client, about, load(about), ASKING)
    assert outcome.rows[0].reference == "given"
    assert np.array_equal(server.asked[-1].given_mask, MASK)


async def test_a_busy_service_is_not_the_items_fault(client: AsyncClient, item: Item) -> None:
    busy = replace(item, questions=(question("Once more."),))
    outcome = await annotate(client, busy, load(item), ASKING)
    assert (outcome.status, outcome.rows) == ("busy", ())
    assert outcome.wait >= 0.25
    assert (await annotate(client, busy, load(item), ASKING)).status == "ok"


async def test_all_rounds_of_an_item_have_one_deadline(client: AsyncClient, item: Item) -> None:
    slow = replace(item, questions=tuple(question("Slow.", answer=None) for _ in range(6)))
    outcome = await annotate(client, slow, load(item), replace(ASKING, timeout=1.0))
    assert (outcome.status, outcome.code, outcome.named) == ("busy", "DEADLINE_EXCEEDED", False)


async def test_a_request_that_cannot_be_served_is(client: AsyncClient, item: Item) -> None:
    wrong = replace(item, questions=(question("Never."), question("Second.")))
    outcome = await annotate(client, wrong, load(item), ASKING)
    assert (outcome.status, outcome.code) == ("failed", "INVALID_ARGUMENT")
    assert {(row.status, row.error_code) for row in outcome.rows} == {("failed", "INVALID_ARGUMENT")}


def test_a_file_must_be_what_was_planned(item: Item, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"other")
    with pytest.raises(ItemError, match=r"another one .*: plan again; .* `run --retry-failed`") as changed:
        load(item)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ItemError, match=r"no longer there: plan again; .* `run --retry-failed`") as gone:
        load(item)
    assert (changed.value.code, gone.value.code) == ("SOURCE_CHANGED", "SOURCE_GONE")
    with pytest.raises(ItemError, match="why; then plan again") as planned:
        load(replace(item, problem="NO_IMAGE: why"))
    assert planned.value.code == "NO_IMAGE"
