"""What a question weighs: as much in the thirtieth round as in the second, since masks are named and not sent."""

from __future__ import annotations

from typing import Any

import pytest

from mediround.testing import _edge, serve
from mediround.v1 import segmentation_pb2 as pb
from tests.service.either import Make
from tests.service.harness import picture

ROUNDS = 30


async def test_requests_weigh_the_same_however_long_the_dialogue(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, weights = _edge._parsed, []

    def weighed(kind: type[Any], raw: bytes) -> Any:
        weights.extend([len(raw)] * (kind is pb.AskRoundRequest))
        return parsed(kind, raw)

    monkeypatch.setattr(_edge, "_parsed", weighed)
    with serve() as server:
        either = make(server.address)
        session = await either.open(picture())
        before = None
        for _ in range(ROUNDS):
            before = await either.ask(session, "Segment the same structure.", refer_to=before)
        await either.close()
    first, *others = weights
    assert len(others) == ROUNDS - 1
    assert max(others) - min(others) <= 2, "an index of one digit or two"
    assert max(others) - first < 128, "the identity of a round and of a mask"
