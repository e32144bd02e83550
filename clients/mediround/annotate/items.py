"""Items: one image, or one frame, and the whole dialogue that is asked of it.

Knows the values, how a dialogue stands in the manifest as JSON, and how an item is named by its content. Does not
know where items come from, or who asks them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal, Protocol, TypeAlias

from mediround._rounds import Mode

ItemKind: TypeAlias = Literal["picture", "dicom", "dicomweb"]
"""``picture``: a PNG, JPEG or TIFF file. ``dicom``: a Part 10 file. ``dicomweb``: an instance of an archive."""

ID_BYTES = 16
"""Of an item's name: BLAKE2b's digest."""
MAX_FILE_BYTES = 1 << 30
"""Of an image or a mask."""
_DIALOGUES_HELD = 64
"""Of those written or read last: an archive's images share a few."""


@dataclass(frozen=True, slots=True)
class GivenReference:
    """A mask of the archive that a question is about.

    Attributes:
        uri: where the file lies: a PNG whose pixels above 0 are set, or a DICOM SEG; ``https://`` of a DICOMweb
            instance.
        sha256: of the file, hex; of an archive's instance, of its SOP Instance UID.
        segment: label of the SEG's segment; empty for a PNG.
    """

    uri: str
    sha256: str
    segment: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One round of an item.

    Attributes:
        name: names it in the index and in file names: small letters, digits and hyphens.
        label: what its mask shows, in words.
        question: the words that are asked.
        refer_to: zero-based index of the earlier question whose mask it is about; None: of none.
        mode: how it is answered where no answer is given; None: the server's default.
        answer: the answer's words, ``[SEG]`` exactly once; None: the model's own.
        reference: a mask of the archive that it is about; then ``refer_to`` is None.
        truth: URI of the target mask, for comparisons alone: it never decides what an item is called.
    """

    name: str
    label: str
    question: str
    refer_to: int | None = None
    mode: Mode | None = None
    answer: str | None = None
    reference: GivenReference | None = None
    truth: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """The unit of work, of retrying and of resuming. Made by ``sources``, kept in the manifest.

    Attributes:
        item_id: names it by its content: equal bytes, frame, window and dialogue, equal name; 32 hex digits.
        image_id: names its image, hex: SHA-256 of the file; of an archive's instance, of its SOP Instance UID.
        kind: how the image is read.
        uri: where the image lies: ``file://``, percent-encoded; another scheme that fsspec knows; ``https://`` of
            a DICOMweb instance.
        sha256: of the file, hex; empty where it was not read: of an archive's instance.
        size: of the file, bytes; 0 where it was not read.
        frame: of a DICOM object, from 1; None: a picture, or an object of one frame.
        window: as ``mediround segment --window`` takes it, a template's too; empty: what the object says.
        study: Study Instance UID; empty for pictures.
        series: Series Instance UID; empty for pictures.
        instance: SOP Instance UID; empty for pictures.
        questions: the dialogue; none where ``problem`` says why.
        source_id: what the source calls it: a table's ``id``; empty: nothing. It never decides ``item_id``.
        problem: why it cannot be asked, as ``CODE: words``; empty: it can.
    """

    item_id: str
    image_id: str
    kind: ItemKind
    uri: str
    questions: tuple[Question, ...]
    sha256: str = ""
    size: int = 0
    frame: int | None = None
    window: str = ""
    study: str = ""
    series: str = ""
    instance: str = ""
    source_id: str = ""
    problem: str = ""


class OfImage(Protocol):
    """An item, or a row of one."""

    @property
    def item_id(self) -> str: ...

    @property
    def image_id(self) -> str: ...


def item_id(
    image_id: str, frame: int | None, window: str, questions: Sequence[Question], discriminator: str = ""
) -> str:
    """32 hex digits.

    Args:
        discriminator: tells items apart that have no content: those with a problem, by where they came from.
    """
    said = json.dumps([image_id, frame, window, _named(questions), discriminator], separators=(",", ":"))
    return blake2b(said.encode(), digest_size=ID_BYTES).hexdigest()


def image_of(one: OfImage) -> str:
    """Names its image; of one whose image could not be read, itself."""
    return one.image_id or one.item_id


@lru_cache(_DIALOGUES_HELD)
def dialogue_json(questions: tuple[Question, ...]) -> str:
    """As the manifest holds it: what is at its default is left out, so that equal dialogues are equal texts."""
    return json.dumps([_plain(each) for each in questions], separators=(",", ":"), ensure_ascii=False)


@lru_cache(_DIALOGUES_HELD)
def questions_of(text: str) -> tuple[Question, ...]:
    """The reverse. Raises ValueError, TypeError or KeyError for what ``dialogue_json`` did not write."""
    found = []
    for values in json.loads(text):
        given = values.pop("reference", None)
        said = {"name": "", "label": "", "question": ""} | values  # what is empty was left out
        found.append(Question(**said, reference=None if given is None else GivenReference(**given)))
    return tuple(found)


def _plain(question: Question) -> dict[str, Any]:
    return {name: value for name, value in asdict(question).items() if value is not None and value != ""}


def _named(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """What names an item: where its files lie, and its targets, do not."""
    named = []
    for each in questions:
        values = _plain(each)
        values.pop("truth", None)
        if "reference" in values:
            values["reference"] = {name: value for name, value in values["reference"].items() if name != "uri"}
        named.append(values)
    return named
