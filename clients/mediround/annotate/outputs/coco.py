"""Masks as COCO JSON, which most training code and annotation tools read.

Knows the format (source: cocodataset.org, "Data format"). A mask is an annotation; its category is its label. What
COCO has no field for stands beside it: ``score``, ``round``, ``item_id``. Does not know files of images.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from typing import IO, Any

from mediround.annotate.files import atomic
from mediround.annotate.job import RunIdentity
from mediround.annotate.outputs.grouping import Image, images
from mediround.annotate.outputs.kept import Export
from mediround.annotate.results import Result
from mediround.annotate.rows import Row


def write_coco(export: Export, found: Iterable[Result], identity: RunIdentity) -> int:
    """Write one file; how many annotations it holds.

    Images that no mask says the size of are left out. Streams: only the names of labels are held.

    Raises:
        JobError: it cannot be written.
    """
    said = {"description": f"{identity.model_name} {identity.model_version}", "version": identity.key}
    categories: dict[str, int] = {}
    count = number = 0
    with atomic(export.place) as unfinished, unfinished.open("w") as file, tempfile.TemporaryFile("w+") as kept:
        file.write(f'{{"info": {json.dumps(said)},\n"images": [')
        for image in images(export.of(found)):
            if image.size is None:
                continue
            number += 1
            _put(file, number, _image(number, image, image.size))
            for row in image.rows:
                if row.counts is not None:
                    count += 1
                    category = categories.setdefault(row.label, len(categories) + 1)
                    _put(kept, count, _annotation(count, number, category, row))
        file.write('],\n"annotations": [')
        kept.seek(0)
        shutil.copyfileobj(kept, file)
        listed = [{"id": value, "name": label} for label, value in categories.items()]
        file.write(f'],\n"categories": {json.dumps(listed)}}}\n')
    export.keep_written(export.place)
    return count


def _put(file: IO[str], number: int, value: dict[str, Any]) -> None:
    file.write(f"{',' if number > 1 else ''}\n{json.dumps(value)}")


def _image(number: int, image: Image, size: tuple[int, int]) -> dict[str, Any]:
    item = image.item
    frame = {} if item.frame is None else {"frame": item.frame}
    return {"id": number, "file_name": item.uri, "height": size[0], "width": size[1], "name": image.name} | frame


def _annotation(number: int, image: int, category: int, row: Row) -> dict[str, Any]:
    box = [0, 0, 0, 0]
    if row.x_min is not None and row.y_min is not None and row.x_max is not None and row.y_max is not None:
        box = [row.x_min, row.y_min, row.x_max - row.x_min + 1, row.y_max - row.y_min + 1]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": {"size": [row.height, row.width], "counts": row.counts},
        "area": row.area,
        "bbox": box,
        "iscrowd": 0,
        "score": row.score,
        "round": row.round,
        "item_id": row.item_id,
    }
