"""A reader's verdicts on a run, as a report's page exports them.

    {"format": 1, "job": "…", "run_key": "…", "items": [{"item_id": "…", "verdict": "reject", "comment": "…"}]}

``verdict`` is ``accept``, ``reject``, or empty: a comment decides nothing. ``job`` is the job's name, or left
out. Knows the form, and which image an item is of. Does not know reports.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mediround.annotate.current import current_rows
from mediround.annotate.errors import JobError, SourceError
from mediround.annotate.items import image_of
from mediround.annotate.job import Job, Run
from mediround.annotate.manifest import read_manifest

FORMAT = 1
_VERDICTS = ("accept", "reject", "")
_MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Rejected:
    """What a reader rejected.

    Attributes:
        items: how many.
        images: how many of them are of which image, as ``items.image_of`` names it; the others are known neither
            to the manifest nor to the run.
    """

    items: int = 0
    images: Counter[str] = field(default_factory=Counter)


def rejected(path: Path, job: Job) -> Rejected:
    """Raises SourceError: it is no review of one of the job's runs; JobError: the job cannot be read."""
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(_MAX_BYTES))
        if values["format"] != FORMAT:
            raise SourceError(f"--from: must be of format {FORMAT}: export the review again")
        key, of_job = str(values["run_key"]), str(values.get("job") or "")
        verdicts = [(str(each["item_id"]), each["verdict"]) for each in values["items"]]
    except OSError as error:
        raise SourceError(f"--from: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SourceError("--from: must be a review, as a report's page exports it") from error
    if any(verdict not in _VERDICTS for _, verdict in verdicts):
        raise SourceError("--from: a verdict must be accept, reject or empty: export the review again")
    runs = [run for run in job.runs() if run.key == key]
    if not runs or (of_job and of_job != job.name):
        words = "--from: must be a review of one of this job's runs: `mediround annotate report --job` shows them"
        raise SourceError(words)
    names = frozenset(name for name, verdict in verdicts if verdict == "reject")
    return Rejected(len(names), _images(names, job, runs[0]))


def _images(names: frozenset[str], job: Job, run: Run) -> Counter[str]:
    """By the manifest; where it was planned otherwise since, by the run."""
    found: dict[str, str] = {}
    with suppress(JobError):  # there is none, or an earlier version's, which is planned again now
        for piece in read_manifest(job.manifest, lambda there: [name for name in there if name in names]):
            found |= {item.item_id: image_of(item) for item in piece}
    if left := names - found.keys():
        found |= {rows[0].item_id: image_of(rows[0]) for rows in current_rows(run, left)}
    return Counter(found.values())
