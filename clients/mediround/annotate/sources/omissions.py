"""What of a source becomes no item: counted by reason, each with its place in a CSV file.

Knows the reasons. Does not know who meets them.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mediround.annotate.files import atomic, writing

Reason: TypeAlias = Literal[
    "no_image",
    "no_row",
    "same_image",
    "repeated",
    "linked_folder",
    "unlistable_folder",
    "not_searched",
    "ours",
    "mask",
    "bad_segmentation",
    "segmentations_left",
]
WORDS: dict[Reason, str] = {
    "no_image": "files or objects that are no image",
    "no_row": "images beside the table, without a row in it",
    "same_image": "copies: another file has the same bytes and is asked the same",
    "repeated": "listed again: the same image, asked the same",
    "linked_folder": "links to folders, which are not followed",
    "unlistable_folder": "folders that cannot be listed: nothing below them is planned",
    "not_searched": "folders with so many files that not all were searched for images without a row",
    "ours": "folders of a job, a run or a report of ours: nothing in them is planned",
    "mask": "files named as masks of images, which questions may be about",
    "bad_segmentation": "times that a DICOM SEG could not be used: its structures are not referred to",
    "segmentations_left": "times that an image had so many DICOM SEG of a structure that not all were looked at",
}
LOST: frozenset[Reason] = frozenset({"linked_folder", "unlistable_folder", "not_searched"})
"""Reasons for which images may be missing that should be there."""


class Omissions:
    """What was left out so far.

    Attributes:
        counts: by reason.
    """

    def __init__(self, writer: Any = None, path: Path = Path()) -> None:
        """``writer``: of rows, to ``path``; None: nothing is written down."""
        self.counts: Counter[Reason] = Counter()
        self._writer, self._path = writer, path

    def add(self, reason: Reason, uri: str, *, source_id: str = "", item_id: str = "") -> None:
        """
        Args:
            uri: where it lies, percent-encoded.
            source_id: what a table calls it; empty: nothing.
            item_id: of the item that is the same, and is asked; empty: none is.

        Raises:
            JobError: it cannot be written down.
        """
        self.counts[reason] += 1
        if self._writer is not None:
            with writing(self._path):
                self._writer.writerow((reason, uri, source_id, item_id))


@contextmanager
def kept(path: Path) -> Iterator[Omissions]:
    """Omissions that are written down, in a file that is there once the block ends well. Raises JobError."""
    with atomic(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("reason", "uri", "source_id", "item_id"))
        yield Omissions(writer, path)
