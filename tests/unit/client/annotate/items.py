"""Items of pictures that lie in a folder, for tests."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from mediround.annotate.items import Item, Question, item_id


def an_item(path: Path, content: bytes, questions: Sequence[Question]) -> Item:
    """An item of these bytes, which are written to ``path``."""
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    named = item_id(digest, None, "", questions)
    return Item(named, digest, "picture", path.as_uri(), tuple(questions), sha256=digest, size=len(content))
