"""Keys of caches and stores: other fields make another key, also where they are the same when joined."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable

import numpy as np
import pytest

from mediround.masks import packed_digest
from mediround.v1 import segmentation_pb2 as pb
from serving.api import records
from serving.api.image_cache import UploadKey
from serving.api.repetition import request_key
from serving.domain import ContentAddress
from serving.geometry import Geometry
from serving.llm.remote import rank
from serving.runtime.digest import digest
from serving.stores.kept.parts import Parts
from serving.stores.kept.seal import Seal
from tests.unit.serving.manifests import manifest

PAIRS = 1050
"""Of each key; of all together over 10,000."""
ALPHABET = "a1\x00:/"
"""Separators that a key might use are in fields, too."""
MODEL = manifest()
PIXELS = np.ones((1, 1, 3), np.uint8)
ROWS = [Parts(Seal(key)) for key in (None, bytes(32))]
"""Of a file that is not encrypted, and of one that is."""


def embedding(form: str, content: str, encoder: str, preprocessing: str) -> Hashable:
    image = MODEL.image.model_copy(update={"preprocessing": preprocessing})
    geometry = Geometry(image, MODEL.tower, encoder)
    return geometry.source_image(PIXELS, ContentAddress(form, content.encode())).embedding_key


def upload(caller: str, form: str, content: str) -> Hashable:
    return UploadKey(caller, ContentAddress(form, content.encode()))


def request(method: str, caller: str, message: str) -> Hashable:
    key = request_key("id", method, caller, message.encode())
    return key and key.fingerprint


def name(kind: str, caller: str, session_id: str) -> Hashable:
    """In a file that is not encrypted."""
    return Seal().name(kind, caller, session_id)


def session_row(caller: str, session_id: str) -> Hashable:
    return ROWS[0].key(session_id, caller)


def sealed_row(caller: str, session_id: str) -> Hashable:
    return ROWS[1].key(session_id, caller)


def placed(kind: str, session: str, part: str) -> Hashable:
    """A body, as it lies there."""
    return Seal().closed(b"body", kind, session.encode(), part)


def engine(name: str, version: str, model: str, server: str) -> Hashable:
    record = pb.EngineRecord(bundle=pb.BundleRecord(name=name, version=version, digest=model))
    record.server_version = server
    return records.digest(record)


KEYS: dict[Callable[..., Hashable], int] = {
    embedding: 4,
    upload: 3,
    request: 3,
    name: 3,
    session_row: 2,
    sealed_row: 2,
    placed: 3,
    engine: 4,
    rank: 3,
    digest: 4,
}
"""With the number of their fields."""


@pytest.mark.parametrize(("key", "count"), KEYS.items())
def test_fields_whose_bytes_have_moved_make_another_key(key: Callable[..., Hashable], count: int) -> None:
    assert PAIRS * len(KEYS) >= 10_000
    draw = random.Random(count)  # noqa: S311  # a seed
    for _ in range(PAIRS):
        fields, shifted = pair(draw, count)
        assert key(*fields) != key(*shifted), (fields, shifted)
        assert key(*fields) == key(*fields)


def pair(draw: random.Random, count: int) -> tuple[list[str], list[str]]:
    """Two lists of fields, the same when they are joined."""
    while True:
        text = "".join(draw.choices(ALPHABET, k=draw.randint(count, 3 * count)))
        one, other = (cut(text, sorted(draw.choices(range(len(text) + 1), k=count - 1))) for _ in range(2))
        if one != other:
            return one, other


def cut(text: str, ends: list[int]) -> list[str]:
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def test_the_same_fields_in_another_role_make_another_key() -> None:
    """Of another kind, tenant, model or type."""
    rows = ROWS[0]
    assert len({rows.key("a", "b"), rows.key("b", "a"), rows.owner("a"), rows._request("a")}) == 4
    assert rows.key("a", "b") != rows.key("a", "c") != ROWS[1].key("a", "c")
    assert name("session", "a", "b") != name("owner", "a", "b")
    assert embedding("f", "c", "one", "p") != embedding("f", "c", "other", "p")


def test_the_same_bits_of_another_shape_are_another_mask() -> None:
    packed = np.zeros(6, np.uint8)
    shapes = [(height, 48 // height) for height in range(1, 49) if 48 % height == 0]
    assert len({packed_digest(packed, *shape) for shape in shapes}) == len(shapes)
