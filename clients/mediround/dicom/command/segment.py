"""``mediround segment``: a template asked of a file's or a folder's frames, and what was found written.

Knows the order of work and exit codes. Does not know how anything is asked, written or shown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from mediround import __version__
from mediround._commands import DONE, INTERRUPTED, NOT_RUN, REFUSED, claimed, tls
from mediround._description import ServerDescription
from mediround.client import Client
from mediround.dicom.command import choice, files, show
from mediround.dicom.command.given import given_masks
from mediround.dicom.command.record import StackRecord
from mediround.dicom.errors import DicomError
from mediround.dicom.series.reading import read_series
from mediround.dicom.series.stack import Stack
from mediround.dicom.volume.segmenting import segment_stack
from mediround.errors import InvalidArgument, MediRoundError
from mediround.templates import Template, load


def run(given: argparse.Namespace) -> int:
    """Exit code 0: done; 1: frames failed, an object could not be written, or the server stopped serving; 2: the
    command cannot be run as it is; 130: interrupted.
    """
    try:
        return _run(given)
    except (InvalidArgument, DicomError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_RUN
    except MediRoundError as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("interrupted: what is written stays; run again with another --out", file=sys.stderr)
        return INTERRUPTED


def _run(given: argparse.Namespace) -> int:
    """Raises MediRoundError, OSError, KeyboardInterrupt."""
    template, console = load(given.template), show.console()
    choice.checked_window(given.window)
    reading = read_series(given.source)
    show.set_aside(reading.set_aside, console)
    stacks = choice.chosen(reading.stacks, template, given.stack)
    for number, stack in enumerate(reading.stacks, start=1):
        why = choice.why_not(stack, template) if number not in stacks else None
        show.notes([f"stack {number} is left out: it {why}"] if why else [], console)
    choice.check_frames(stacks, given.frames, given.start, follow=given.follow)
    folder = claimed(given.out)
    with Client(given.server, tls=tls(given), timeout=given.timeout) as client:
        served = client.describe()
        show.notes(template.check(served), console)
        asking = _Asking(given, template, client, served, folder, console)
        try:
            asking.all(stacks)
        finally:
            asking.told(stacks)
    return REFUSED if asking.refusals or any(record.failures for record in asking.records) else DONE


@dataclass(slots=True)
class _Asking:
    """The stacks of one run.

    Attributes:
        refusals: why an object could not be written.
    """

    given: argparse.Namespace
    template: Template
    client: Client
    served: ServerDescription
    folder: Path
    console: Console
    records: list[StackRecord] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)

    def all(self, stacks: Mapping[int, Stack]) -> None:
        """Each stack is written once it is done. Raises MediRoundError, OSError."""
        template, frames = self.template, self.given.frames
        with show.bar(sum(len(frames or stack.frames) for stack in stacks.values())) as bar:
            for number, stack in stacks.items():
                words = [*choice.gaps(stack), *choice.doubts(stack, template)]
                show.notes((f"stack {number}: {each}" for each in words), self.console)
                asked = len(set(frames)) if frames else len(stack.frames)
                record = StackRecord(number, stack, template, self.given.follow, asked)
                self.records.append(record)
                try:
                    self._ask(record, bar)
                    record.complete = True
                finally:
                    self._write(record)

    def told(self, stacks: Iterable[int]) -> None:
        """What is known is written and shown, however it ended; what is missing goes to stderr. Raises OSError."""
        if not any(record.frames for record in self.records):
            return  # the folder stays empty, for the next run
        self.written.append(files.write_results(self.folder, self.records, _said(self.served)))
        show.summary(self.records, self.console)
        show.notes(self.refusals, self.console)
        show.line(self.console, f"files written: {len(self.written)}, in {self.folder}")
        done = {record.number: record for record in self.records}
        for number in stacks:
            if number not in done:
                print(f"stack {number} was not asked", file=sys.stderr)
            elif words := done[number].incomplete:
                print(f"stack {number} is incomplete: {words} are known, and written", file=sys.stderr)

    def _ask(self, record: StackRecord, bar: show.Bar) -> None:
        given = self.given
        results = segment_stack(
            self.client,
            record.stack,
            record.template,
            frames=given.frames,
            follow=given.follow,
            start=given.start,
            given={} if given.given is None else given_masks(given.given, record.stack, record.template),
            window=given.window,
            least_score=given.least_score,
            in_flight=given.in_flight,
            priority="batch" if given.batch else "interactive",
            timeout=given.timeout,
        )
        with closing(results):
            for result in results:
                record.add(result)
                if given.png:
                    self.written += files.write_masks(self.folder, record.number, result)
                marked = any(answer.mark for answer in result.answers)
                bar.advance(failed=result.error is not None, marked=marked)

    def _write(self, record: StackRecord) -> None:
        """Of a stack that was broken off SEG alone, which says so: a report's sizes would be those of a part."""
        given, provenance = self.given, record.provenance(self.served)
        if not record.frames:
            return
        kinds = [kind for kind in files.KINDS if getattr(given, kind)]
        if record.incomplete or not (kinds or given.png or given.sc):
            kinds = ["seg"]
        if "seg" in kinds and not any(question.masks for question in record.questions):
            show.notes([f"stack {record.number}: nothing was found, so that no SEG is written"], self.console)
        try:
            self.written += files.write_objects(self.folder, record, provenance, kinds)
            if given.sc and not record.incomplete:
                window = self.template.window if given.window is None else given.window
                self.written += files.write_pictures(self.folder, record, provenance, window)
        except (InvalidArgument, DicomError) as error:
            self.refusals.append(f"stack {record.number}: DICOM results cannot be written: {error}")


def _said(served: ServerDescription) -> dict[str, str]:
    return {
        "client_version": __version__,
        "server_version": served.server_version,
        "model_name": served.model_name,
        "model_version": served.model_version,
        "model_digest": served.model_digest,
        "intended_use": served.intended_use,
    }
