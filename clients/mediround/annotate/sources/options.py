"""How a source is listed.

Knows what a caller may choose. Does not know sources.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

from mediround.annotate.sources.examined import Place
from mediround.annotate.sources.omissions import Omissions
from mediround.templates import Template


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is listed.

    Attributes:
        template: the dialogue of images that have none of their own.
        root: where a table's paths begin; None: the table's folder.
        window: of all images, as ``mediround segment --window`` takes it; empty: their template's, else what the
            image says.
        references: the archive's own annotations that questions are about; None: none.
        first: images that come before all others, as ``items.image_of`` names them.
        listed: is told how many items are listed so far.
        omissions: is told what becomes no item.
    """

    template: Template | None = None
    root: Place | None = None
    window: str = ""
    references: Literal["masks", "seg"] | None = None
    first: Collection[str] = frozenset()
    listed: Callable[[int], None] = lambda _: None
    omissions: Omissions = field(default_factory=Omissions)
