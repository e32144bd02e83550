"""A reader's verdicts on a run, as a report's page exports them.

    {"format": 1, "run_key": "…", "items": [{"item_id": "…", "verdict": "accept" or "reject", "comment": "…"}]}

Knows the form. Does not know reports.
"""

from __future__ import annotations

import json
from pathlib import Path

from mediround.annotate.errors import SourceError
from mediround.annotate.job import Job

FORMAT = 1
_MAX_BYTES = 256 << 20


def rejected(path: Path, job: Job) -> frozenset[str]:
    """Names of the items that were rejected. Raises SourceError: it is no review of one of the job's runs."""
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(_MAX_BYTES))
        if values["format"] != FORMAT:
            raise SourceError(f"--from: must be of format {FORMAT}: export the review again")
        key = str(values["run_key"])
        found = frozenset(str(each["item_id"]) for each in values["items"] if each["verdict"] == "reject")
    except OSError as error:
        raise SourceError(f"--from: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SourceError("--from: must be a review, as a report's page exports it") from error
    if key not in {run.key for run in job.runs()}:
        raise SourceError("--from: must be a review of one of this job's runs")
    return found
