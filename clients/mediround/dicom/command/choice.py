"""Which stacks of a folder a template is for, and why not the others.

Knows what template and stack say of themselves. Does not look at pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mediround.dicom.series.stack import Stack
from mediround.dicom.volume.order import ordered
from mediround.dicom.windowing import PERCENTILE, PRESETS
from mediround.errors import FieldViolation, InvalidArgument
from mediround.templates import Template
from mediround.window import WindowChoice


def why_not(stack: Stack, template: Template) -> str | None:
    """Why a template is not asked of a stack unless a person says so; None: it is."""
    if stack.localizer:
        return "is a localizer"
    if stack.modality and stack.modality != template.modality:
        return f"is {_printable(stack.modality)}, the template is for {template.modality}"
    if template.plane and stack.plane not in (None, template.plane):
        return f"is {stack.plane}, the template is for {template.plane} slices"
    return None


def doubts(stack: Stack, template: Template) -> list[str]:
    """What a person should know of a stack that is asked."""
    found = list(stack.notes)
    if not stack.modality:
        found.append(f"its modality is not said; the template is for {template.modality}")
    if stack.body_part and stack.body_part != template.body_part:
        found.append(f"is {_printable(stack.body_part)}, the template is for {template.body_part}")
    if template.plane and stack.plane is None:
        found.append(f"its plane is not known; the template is for {template.plane} slices")
    return found


def gaps(stack: Stack) -> list[str]:
    """Where slices are missing."""
    return [
        f"gap of {gap.distance:.2f} mm after frame {gap.after}, slices missing: {gap.missing}"
        for gap in stack.gaps
    ]


def chosen(stacks: Sequence[Stack], template: Template, numbers: Sequence[int]) -> dict[int, Stack]:
    """Those that are asked, by their number in the list, from 1.

    Args:
        numbers: the person's choice; none: all that the template is for.

    Raises:
        InvalidArgument: a number is none of a stack, or no stack is left.
    """
    listed = dict(enumerate(stacks, start=1))
    if strange := [number for number in numbers if number not in listed]:
        words = f"{strange[0]} must be one of 1 to {len(listed)}: `mediround dicom check` lists them"
        raise _refused("--stack", words)
    if numbers:
        return {number: listed[number] for number in sorted(set(numbers))}
    fitting = {number: stack for number, stack in listed.items() if why_not(stack, template) is None}
    if not fitting:
        reasons = [f"stack {number} {why_not(stack, template)}" for number, stack in listed.items()]
        words = (
            "; ".join([*reasons[:5], "choose another template, or --stack"]) if listed else "no image was found"
        )
        raise _refused("SOURCE", words)
    return fitting


def check_frames(
    stacks: Mapping[int, Stack], frames: Sequence[int] | None, starts: Sequence[int] | None, *, follow: bool
) -> None:
    """That each stack has the frames that are asked. Raises InvalidArgument, which names the stack."""
    for number, stack in stacks.items():
        try:
            ordered(stack, frames, starts or (), follow=follow)
        except InvalidArgument as error:
            raise InvalidArgument(f"stack {number}: {error}", error.violations) from None


def checked_window(window: WindowChoice) -> WindowChoice:
    """The window. Raises InvalidArgument for the name of none: else each frame would fail."""
    if isinstance(window, str) and window != PERCENTILE and window not in PRESETS:
        raise _refused(
            "--window", f"must be CENTER,WIDTH, a number, or one of {', '.join([*PRESETS, PERCENTILE])}"
        )
    return window


def _printable(words: str) -> str:
    """Of an attribute, which may hold anything."""
    return "".join(character if character.isprintable() else "?" for character in words[:16])


def _refused(field: str, words: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {words}", (FieldViolation(field, words),))
