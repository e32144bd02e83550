"""``mediround dicom check``: what would happen to a file's or a folder's frames, without a server.

Knows the order of work and exit codes. Does not know what is read, or how.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydicom.uid import UID
from rich.console import Console
from rich.table import Table

from mediround._commands import DONE, INTERRUPTED, NOT_RUN, REFUSED
from mediround.dicom.command import choice, show
from mediround.dicom.command.record import words_of
from mediround.dicom.errors import DicomError
from mediround.dicom.instance import LastRead
from mediround.dicom.quiet import quiet
from mediround.dicom.series.reading import read_series
from mediround.dicom.series.stack import Stack, StackFrame
from mediround.errors import InvalidArgument, MediRoundError
from mediround.templates import Template, load

_NUMBERS = {"stack", "frames", "spacing"}


def run(given: argparse.Namespace) -> int:
    """Exit code 0: a stack can be asked, or part of it, as far as its frames were decoded; 1: none can; 2: the
    command cannot be run as it is; 130: interrupted.
    """
    try:
        template = None if given.template is None else load(given.template)
        choice.checked_window(given.window)
        reading = read_series(given.source)
        checks = [_check(number, stack, template, given) for number, stack in enumerate(reading.stacks, start=1)]
    except (InvalidArgument, DicomError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_RUN
    except KeyboardInterrupt:
        return INTERRUPTED
    left_out = Counter(each.description for each in reading.set_aside)
    if given.json:
        print(json.dumps({"stacks": [check.to_dict() for check in checks], "left_out": left_out}))
    else:
        _show(checks, show.console())
        show.set_aside(reading.set_aside, show.console())
    return DONE if any(check.asked != "no" for check in checks) else REFUSED


@dataclass(frozen=True, slots=True)
class _Check:
    """What is known of a stack.

    Attributes:
        why_not: the template is not for it, in words; None: it is, or none was given.
        failures: frames that cannot be decoded, and why.
    """

    number: int
    stack: Stack
    looked: int
    syntaxes: tuple[str, ...]
    decoders: tuple[str, ...]
    windows: tuple[str, ...]
    size: str
    why_not: str | None
    notes: tuple[str, ...]
    failures: dict[int, str]

    @property
    def asked(self) -> Literal["yes", "in part", "no"]:
        if self.why_not is not None or len(self.failures) == self.looked:
            return "no"
        return "in part" if self.failures else "yes"

    def to_dict(self) -> dict[str, Any]:
        stack = self.stack
        return {
            "stack": self.number,
            "part": stack.part,
            "parts": stack.parts,
            "modality": stack.modality,
            "body_part": stack.body_part,
            "plane": stack.plane,
            "frames": len(stack.frames),
            "rows": stack.frames[0].rows,
            "columns": stack.frames[0].columns,
            "sent_as": self.size,
            "order": stack.order,
            "spacing": stack.spacing,
            "gaps": [[gap.after, gap.distance, gap.missing] for gap in stack.gaps],
            "localizer": stack.localizer,
            "transfer_syntaxes": self.syntaxes,
            "decoders": self.decoders,
            "windows": self.windows,
            "looked_at": self.looked,
            "failures": self.failures,
            "asked": self.asked,
            "why_not": self.why_not,
            "notes": self.notes,
        }


def _check(number: int, stack: Stack, template: Template | None, given: argparse.Namespace) -> _Check:
    window = template.window if template and given.window is None else given.window
    seen: dict[str, dict[str, None]] = {"syntax": {}, "decoder": {}, "window": {}, "size": {}}
    failures: dict[int, str] = {}
    objects = LastRead()
    looked = list(_looked_at(stack, whole=given.every_frame))
    for index, place in looked:
        try:
            for kind, words in _decoded(objects, place, window):
                seen[kind][words] = None
        except (MediRoundError, OSError) as error:
            failures[index] = words_of(error)
    return _Check(
        number=number,
        stack=stack,
        looked=len(looked),
        syntaxes=tuple(seen["syntax"]),
        decoders=tuple(seen["decoder"]),
        windows=tuple(seen["window"]),
        size=next(iter(seen["size"]), "-"),
        why_not=None if template is None else choice.why_not(stack, template),
        notes=stack.notes if template is None else tuple(choice.doubts(stack, template)),
        failures=failures,
    )


def _looked_at(stack: Stack, *, whole: bool) -> Iterator[tuple[int, StackFrame]]:
    """All, or the first, the middle one and the last: damage, and windows that differ, show themselves there."""
    count = len(stack.frames)
    for index in range(count) if whole else sorted({0, count // 2, count - 1}):
        yield index, stack.frames[index]


def _decoded(objects: LastRead, place: StackFrame, window: Any) -> Iterator[tuple[str, str]]:
    """Raises MediRoundError, OSError."""
    instance = objects.instance(place.source)
    with quiet():
        yield "syntax", UID(instance.transfer_syntax).name
    frame = instance.frame(place.number, window)
    yield "decoder", ", ".join(f"{library.name} {library.version}" for library in frame.record.libraries)
    yield "window", frame.record.window
    yield "size", "x".join(map(str, frame.image.shape))


def _show(checks: list[_Check], console: Console) -> None:
    table = Table()
    for name in ("stack", "part", "modality", "body part", "plane", "frames", "size", "order", "spacing", "asked"):
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    for check in checks:
        table.add_row(*map(show.printable, _cells(check)))
    console.print(table)
    for check in checks:
        for words in _words(check):
            show.line(console, f"stack {check.number}: {words}")


def _cells(check: _Check) -> tuple[str, ...]:
    stack, first = check.stack, check.stack.frames[0]
    return (
        str(check.number),
        f"{stack.part} of {stack.parts}",
        stack.modality or "-",
        stack.body_part or "-",
        stack.plane or "-",
        str(len(stack.frames)),
        f"{first.rows}x{first.columns}",
        stack.order,
        "-" if stack.spacing is None else f"{stack.spacing:.2f} mm",
        check.asked,
    )


def _words(check: _Check) -> Iterator[str]:
    if check.why_not:
        yield f"is not asked unless --stack {check.number} says so: it {check.why_not}"
        return
    if check.syntaxes:
        yield f"{', '.join(check.syntaxes)}; read by {'; '.join(check.decoders) or 'nothing'}"
    if check.size != "-":
        window = "in colour" if check.windows[0] == "none" else f"by window {check.windows[0]}"
        yield f"sent as {check.size}, {window}"
    if len(check.windows) > 1:
        yield f"windows differ from frame to frame, {len(check.windows)} of {check.looked}; --window sets one"
    if check.stack.localizer:
        yield "is a localizer: not asked unless --stack says so"
    yield from choice.gaps(check.stack)
    for index, words in check.failures.items():
        yield f"frame {index} cannot be read: {words}"
    yield from check.notes
