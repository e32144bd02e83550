"""A data set in the MR-MedSeg form: answers are given, targets kept for comparisons.

Knows what of it becomes an item. Does not know the form: ``mediround.medseg``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mediround.annotate.errors import ItemError, SourceError
from mediround.annotate.items import Item, Question
from mediround.annotate.sources.annotations import NoAnnotations
from mediround.annotate.sources.beside import Searched
from mediround.annotate.sources.dialogues import is_unicode
from mediround.annotate.sources.examined import Place, examined, place_of, uri_of
from mediround.annotate.sources.images import items_of_file, problem_item
from mediround.annotate.sources.options import SourceOptions
from mediround.medseg import DataError, Dialogue, parse, read_items


def items(path: Path, options: SourceOptions) -> Iterator[Item]:
    """Raises SourceError: it is not in the form."""
    root = path.parent if options.root is None else options.root
    try:
        found = read_items(path)
    except DataError as error:
        raise SourceError(
            "the data set is not in the MR-MedSeg form: a list of items, as docs/evaluation.md says"
        ) from error
    with Searched.of(root, options.omissions) as searched:
        for number, values in enumerate(found):
            uri = ""
            try:
                dialogue = parse(values)
                if not is_unicode(json.dumps(values, ensure_ascii=False)):
                    raise DataError("must be Unicode: JSON may hold half of a surrogate pair")
                image = place_of(root, dialogue.image)
                uri = uri_of(image)
                searched.name(image, *(place_of(root, each.target) for each in dialogue.rounds))
                asked = NoAnnotations(_questions(dialogue, root))
                yield from items_of_file(examined(image), asked, options.window)
            except DataError as error:
                yield problem_item(ItemError("BAD_DIALOGUE", f"the item {error}"), str(number), uri)
            except ItemError as error:
                yield problem_item(error, str(number), uri)
        searched.rest()


def _questions(dialogue: Dialogue, root: Place) -> tuple[Question, ...]:
    return tuple(
        Question(
            name=f"round-{index}",
            label=f"round {index}",
            question=each.question,
            refer_to=each.refer_to,
            answer=each.answer,
            truth=uri_of(place_of(root, each.target)),
        )
        for index, each in enumerate(dialogue.rounds)
    )
