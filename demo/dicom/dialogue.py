"""The dialogue over the series, and its results as structures.

Knows the client, the template and what results are made of. Does not know servers, files or archives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from mediround import Client
from mediround.dicom import FrameResult, read_series, segment_stack
from mediround.dicom.results import Provenance, Segment
from mediround.templates import Template, load

TEMPLATE = "brain-t1-deep-nuclei"
PATIENCE_SECONDS = 300.0
"""For a slice's questions: the machine may have other work."""


def ask(client: Client, files: Sequence[Path]) -> tuple[list[FrameResult], Template]:
    """The template's questions on every frame; raises the error of a frame that has one."""
    template = load(TEMPLATE)
    [stack] = read_series(files).stacks
    results = list(segment_stack(client, stack, template, in_flight=2, timeout=PATIENCE_SECONDS))
    for result in results:
        if result.error is not None:
            raise result.error
    return results, template


def structures(results: Iterable[FrameResult], template: Template) -> list[Segment]:
    """One for each question, over the frames that have a mask of it; its score is the median."""
    frames = list(results)
    found = []
    for number, question in enumerate(template.questions):
        answers = {(one.frame.sop_instance_uid, one.frame.number): one.answers[number] for one in frames}
        scores = [answer.score for answer in answers.values() if answer.score is not None]
        found.append(
            Segment(
                label=question.label,
                masks={key: answer.mask for key, answer in answers.items() if answer.mask is not None},
                round=number,
                score=median(scores) if scores else None,
                corrected=any(answer.corrected for answer in answers.values()),
            )
        )
    return found


def provenance(client: Client, results: Sequence[FrameResult], template: Template) -> Provenance:
    """What found them: the server's engine record, the template, the window."""
    [record] = client.describe().engine_records
    window = str(results[0].window or "none")
    return Provenance.of_record(f"demo {template.digest}", record, template=template.name, window=window)
