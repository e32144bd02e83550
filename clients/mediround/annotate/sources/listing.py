"""A source's items: a folder of images, a table of images and dialogues, an MR-MedSeg data set, an archive.

Knows which source is meant by what is given, that each item comes once, and that items of one image come together.
Does not know manifests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mediround.annotate.errors import SourceError
from mediround.annotate.items import Item, Question, image_of
from mediround.annotate.manifest import item_of, row_of
from mediround.annotate.sorting import grouped, names, scratch_folder
from mediround.annotate.sources import archive, data_sets, folders, table_rows
from mediround.annotate.sources.dialogues import of_template, window_of
from mediround.annotate.sources.examined import stores_needed
from mediround.annotate.sources.omissions import Reason
from mediround.annotate.sources.options import SourceOptions

__all__ = ["SourceOptions", "items_of"]
_FORMS: dict[str, Callable[[Path, SourceOptions], Iterator[Item]]] = {
    ".csv": table_rows.items,
    ".jsonl": table_rows.items,
    ".parquet": table_rows.items,
    ".json": data_sets.items,
}
MAX_TABLE_BYTES = 16 << 30
"""Of a table in a store."""


def items_of(source: str, options: SourceOptions) -> Iterator[Item]:
    """Every item once, those of one image together; sorted on disk.

    Raises:
        SourceError: the source is not there, not in a form that is known, or cannot be listed to its end.
    """
    try:
        yield from _together(_once(_items(source, options), options), options)
    except OSError as error:  # not of the manifest, into which the items are written meanwhile
        reason = error.strerror or type(error).__name__
        raise SourceError(f"the source cannot be listed, or sorted in TMPDIR ({reason})") from error


def _items(source: str, options: SourceOptions) -> Iterator[Item]:
    _check_references(source, options)
    if source.startswith(("http://", "https://")):
        return archive.items(source, *_asked(options, "an archive's"))
    if "://" in source and _suffix(source) in _FORMS:
        return _of_remote(source, options)
    if "://" in source:
        return folders.of_store(source, *_asked(options, "a store's"))
    path = Path(source)
    if path.is_dir():
        return folders.of_folder(path, *_asked(options, "a folder's"))
    if not path.is_file():
        raise SourceError("SOURCE must be a folder, or a .csv, .jsonl, .parquet or .json file that can be read")
    if path.suffix not in _FORMS:
        raise SourceError(f"SOURCE must end in one of {', '.join(_FORMS)}, or be a folder")
    return _FORMS[path.suffix](path, options)


def _check_references(source: str, options: SourceOptions) -> None:
    if options.references is None:
        return
    if source.startswith(("http://", "https://")):
        if options.references != "seg":
            raise SourceError("--references must be seg with an archive: it holds no mask files")
    elif "://" in source and _suffix(source) not in _FORMS:
        if options.references != "masks":
            raise SourceError("--references must be masks with a store: for DICOM SEG a folder is searched")
    elif not Path(source).is_dir():
        raise SourceError("--references must be left out with a table: it has the column reference")


def _of_remote(source: str, options: SourceOptions) -> Iterator[Item]:
    """A table of a store, copied to read it; its paths begin where it lies."""
    with stores_needed():
        from mediround.annotate import remote  # noqa: PLC0415  # its extra need not be installed
    root = source.rpartition("/")[0] if options.root is None else options.root
    with scratch_folder() as folder:
        copy = folder / f"table{_suffix(source)}"
        remote.copy(source, copy, MAX_TABLE_BYTES)
        yield from _FORMS[copy.suffix](copy, replace(options, root=root))


def _suffix(source: str) -> str:
    return PurePosixPath(source.rpartition("/")[2]).suffix


def _asked(options: SourceOptions, whose: str) -> tuple[tuple[Question, ...], SourceOptions]:
    """The dialogue of all images, and the options with the window by which they are seen."""
    template = options.template
    if template is None:
        raise SourceError(f"--template must name the dialogue that is asked of {whose} images")
    return of_template(template), replace(options, window=options.window or window_of(template))


def _once(items: Iterable[Item], options: SourceOptions) -> Iterator[Item]:
    """Each item once: a file that lies in two places is one image. What is left out says which item it is."""
    with names() as known:
        for item in items:
            same_place = known.add(item.item_id, item.uri)
            if same_place is None:
                yield item
            else:
                reason: Reason = "repeated" if same_place else "same_image"
                options.omissions.add(reason, item.uri, source_id=item.source_id, item_id=item.item_id)


def _together(items: Iterable[Item], options: SourceOptions) -> Iterator[Item]:
    """Those of one image, so that they meet in a server's caches."""

    def keyed() -> Iterator[tuple[str, bool, str]]:
        for count, item in enumerate(items, start=1):
            options.listed(count)
            yield image_of(item), image_of(item) in options.first, json.dumps(row_of(item))

    for _, text in grouped(keyed()):
        yield item_of(json.loads(text))
