"""A reader's verdicts on a run, as a report's page exports them.

    {"format": 1, "run_key": "…", "items": [{"item_id": "…", "verdict": "reject", "comment": "…"}]}

``verdict`` is ``accept``, ``reject``, or empty: a comment decides nothing. Knows the form. Does not know reports.
"""

from __future__ import annotations

import json
from pathlib import Path

from mediround.annotate.errors import SourceError
from mediround.annotate.job import Job

FORMAT = 1
_VERDICTS = ("accept", "reject", "")
_MAX_BYTES = 256 << 20


def rejected(path: Path, job: Job) -> frozenset[str]:
    """Names of the items that were rejected. Raises SourceError: it is no review of one of the job's runs."""
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(_MAX_BYTES))
        if values["format"] != FORMAT:
            raise SourceError(f"--from: must be of format {FORMAT}: export the review again")
        key = str(values["run_key"])
        verdicts = [(str(each["item_id"]), each["verdict"]) for each in values["items"]]
    except OSError as error:
        raise SourceError(f"--from: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SourceError("--from: must be a review, as a report's page exports it") from error
    if any(verdict not in _VERDICTS for _, verdict in verdicts):
        raise SourceError("--from: a verdict must be accept, reject or empty: export the review again")
    if key not in {run.key for run in job.runs()}:
        raise SourceError("--from: must be a review of one of this job's runs")
    return frozenset(name for name, verdict in verdicts if verdict == "reject")
