"""A regression set: a directory in the golden form that this project's own engines recorded.

It shows later whether results have changed. It is no golden set: only the published code can record one. Knows
what is copied of a data set and what is recorded of a round. Does not know how engines are made, nor prints.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from exporters.compare.golden import (
    ARRAYS,
    DIALOGUES,
    Arrays,
    Origin,
    RecordedRound,
    dialogue_arrays,
    write_arrays,
)
from exporters.compare.recorded_inputs import of_data_set
from exporters.compare.replay import ReplayedDialogue, Replayer
from exporters.errors import UnsupportedSourceError
from exporters.progress import Progress
from mediround.medseg import parse, read_items
from serving.bundle import Bundle
from serving.errors import ServingError
from serving.ports import EmbeddingStore, LanguageEngine, VisionEngine

README = "README.md"


async def record(  # noqa: PLR0917  # what records, what is asked, where it goes
    bundle: Bundle,
    language: LanguageEngine,
    vision: VisionEngine,
    embeddings: EmbeddingStore | None,
    data: Path,
    root: Path,
    out: Path,
    progress: Progress,
) -> Origin:
    """Have every dialogue of a data set in the MR-MedSeg form answered, and write what was computed into ``out``.

    The arrays are written last: a directory without them is unfinished.

    Args:
        embeddings: by default each dialogue has a store of its own.
        data: the data set's JSON; paths in it are below ``root``.
        out: made; it must not hold anything.
        progress: told of each dialogue, for people.

    Raises:
        UnsupportedSourceError: ``out`` is not empty, an image lies outside ``root``, or the bundle cannot answer a
            dialogue.
        DataError: the data set is not in the form.
        OSError: a file cannot be read or written.
    """
    _copy_data_set(data, root, out)
    origin = Origin(
        f"{bundle.manifest.name} {bundle.manifest.version}",
        bundle.digest,
        (language.description, vision.description),
    )
    arrays: Arrays = {}
    with ThreadPoolExecutor(1) as pixels:
        replayer = Replayer.of(bundle, language, vision, pixels, embeddings)
        for index, asked in enumerate(of_data_set(data, root)):
            progress(f"dialogue {index}: {len(asked.questions)} rounds")
            try:
                replayed = await replayer.dialogue(asked.rgb, asked.questions)
            except ServingError as error:
                raise UnsupportedSourceError(f"{data}: dialogue {index} cannot be answered: {error}") from error
            rounds = tuple(_round(replayed, k) for k in range(len(asked.questions)))
            arrays |= dialogue_arrays(index, replayed.token_ids, rounds)
    (out / README).write_text(_readme(origin), encoding="utf-8")
    write_arrays(out, arrays, origin)
    return origin


def _copy_data_set(data: Path, root: Path, out: Path) -> None:
    """The dialogues as they are, and the image of each."""
    if out.exists() and any(out.iterdir()):
        raise UnsupportedSourceError(f"{out} is not empty: --out must name a new directory.")
    images = [parse(item).image for item in read_items(data)]
    target = (out / DIALOGUES).parent
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(data, out / DIALOGUES)
    for image in images:
        source, copy = (root / image).resolve(), (target / image).resolve()
        if not source.is_relative_to(root.resolve()) or not copy.is_relative_to(target.resolve()):
            raise UnsupportedSourceError(f"{data}: {image} lies outside --root.")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def _round(replayed: ReplayedDialogue, index: int) -> RecordedRound:
    """As the published evaluation records: raw feature, score, box and crop where a later round refers to it."""
    found, shown = replayed.rounds[index], replayed.references.get(index)
    segmentation = found.result.segmentation
    crop = shown.crop_rectangle if shown else None
    return RecordedRound(
        feature=found.feature,
        raw_feature=found.raw_feature if shown else None,
        score=segmentation.score if shown and segmentation else None,
        mask=replayed.full_logits(index) > 0,
        box=shown.box if shown else None,
        crop=(crop.y_min, crop.x_min, crop.y_max + 1, crop.x_max + 1) if crop else None,
    )


def _readme(origin: Origin) -> str:
    return (
        f"# Regression set\n\n{origin.words()}\n\n`python -m exporters record` wrote it: `dataset/` is copied, "
        f"`{ARRAYS}` is what was computed (docs/export.md says what each array is). Compare with it by "
        "`python -m exporters parity --golden` this directory.\n"
    )
