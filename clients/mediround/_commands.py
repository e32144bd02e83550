"""``mediround ask``, ``describe`` and ``ping``: a server asked from a terminal or a script.

Knows the commands' arguments, what they print and write, and exit codes. Does not know how anything is asked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

from mediround import _calls
from mediround._rounds import Round
from mediround._tls import Tls
from mediround.client import Client
from mediround.errors import FieldViolation, InvalidArgument, MediRoundError
from mediround.results import RoundResult
from mediround.window import Function, Window

DONE, REFUSED, NOT_RUN, INTERRUPTED = 0, 1, 2, 130
CODES = "Exit code 0: done; 1: the server did not do it; 2: the command cannot be run as it is; 130: interrupted."
RESULTS = "results.json"
_MOST_DIGITS = 6


def run(given: argparse.Namespace) -> int:
    """Run ``given.command``; its exit code."""
    try:
        with Client(given.server, tls=tls(given), timeout=given.timeout) as client:
            _COMMANDS[given.command](client, given)
    except (InvalidArgument, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_RUN
    except MediRoundError as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def tls(given: argparse.Namespace) -> Tls | None:
    """Raises InvalidArgument when a file cannot be used."""
    parts = (given.tls_ca, given.tls_certificate, given.tls_key)
    return Tls(*parts) if any(parts) else None


def timeout(text: str) -> float:
    """For argparse."""
    try:
        return _calls.seconds(float(text))
    except (ValueError, InvalidArgument):
        raise argparse.ArgumentTypeError("must be seconds above 0, or inf for no end") from None


def reference(text: str) -> tuple[int | None, int]:
    """``QUESTION:ROUND``, or ``ROUND`` for the last question; for argparse."""
    question, separator, earlier = text.rpartition(":")
    if not earlier.isdecimal() or not (question.isdecimal() if separator else True):
        raise argparse.ArgumentTypeError("must be ROUND, or QUESTION:ROUND, both counted from 0")
    return int(question) if separator else None, int(earlier)


def window(text: str) -> Window | tuple[float, float] | str | int:
    """``CENTER,WIDTH`` or ``CENTER,WIDTH,FUNCTION``, the number of one of the object's own windows, or a preset's
    name; for argparse.
    """
    parts = text.split(",")
    try:
        if len(parts) == 2:
            return float(parts[0]), float(parts[1])
        if len(parts) == 3:
            return Window(float(parts[0]), float(parts[1]), cast(Function, parts[2]))
        return int(text) if text.isdecimal() else text
    except ValueError:
        raise argparse.ArgumentTypeError("must be CENTER,WIDTH, a preset's name, or a number from 1") from None
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(error.violations[0].description) from None


def indices(text: str) -> list[int]:
    """``3-7,9``, each from 0; for argparse."""
    found: list[int] = []
    for part in text.split(","):
        ends = part.split("-")
        if len(ends) > 2 or not all(end.isdecimal() and len(end) <= _MOST_DIGITS for end in ends):
            raise argparse.ArgumentTypeError("must be indices and ranges, each from 0: 3-7,9")
        found += range(int(ends[0]), int(ends[-1]) + 1)
    return found


def claimed(folder: Path) -> Path:
    """The folder, made where it is not there. Raises InvalidArgument where it holds anything, OSError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        words = "must not exist, or be an empty folder: nothing is overwritten"
        raise InvalidArgument(f"--out: {words}", (FieldViolation("--out", words),))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _ask(client: Client, given: argparse.Namespace) -> None:
    rounds = _rounds(given)
    if given.out:
        claimed(given.out)
    results: list[RoundResult] = []
    with client.open(given.image, frame=given.frame, window=given.window) as session:
        for asked in rounds:
            result = session.ask(asked.question, refer_to=asked.refer_to, mode=given.mode)
            print(json.dumps(result.to_dict()) if given.json else result, flush=True)
            results.append(result)
            if given.out:
                _write(results, given.out)


def _rounds(given: argparse.Namespace) -> list[Round]:
    last = len(given.question) - 1
    references = {last if number is None else number: earlier for number, earlier in given.refer_to}
    for number, earlier in references.items():
        if not earlier < number <= last:
            raise InvalidArgument(f"--refer-to: question {number} of {last + 1} must refer to an earlier round")
    return [Round(words, references.get(number)) for number, words in enumerate(given.question)]


def _write(results: list[RoundResult], out: Path) -> None:
    """The last one's mask, and all that is known so far: a later question may be refused."""
    if results[-1].mask is not None:
        results[-1].save(out / f"round-{results[-1].index}.png")
    held = [result.to_dict() for result in results]
    (out / RESULTS).write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def _describe(client: Client, given: argparse.Namespace) -> None:
    described = asdict(client.describe())
    if given.json:
        print(json.dumps(described))
        return
    for name, value in _flat("", described):
        print(f"{name}: {value}")


def _flat(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Leaves with their paths; words of a list in one line, and nothing for what is not known."""
    if isinstance(value, dict):
        for part, below in value.items():
            yield from _flat(f"{name}.{part}" if name else part, below)
    elif isinstance(value, tuple) and any(isinstance(each, dict) for each in value):
        for index, each in enumerate(value):
            yield from _flat(f"{name}[{index}]", each)
    elif value is not None:
        yield name, ", ".join(value) if isinstance(value, tuple) else value


def _ping(client: Client, given: argparse.Namespace) -> None:
    if given.wait is not None:
        client.wait_until_ready(given.wait)
    print(f"SERVING, {client.ping() * 1000:.1f} ms")


_COMMANDS: dict[str, Callable[[Client, argparse.Namespace], None]] = {
    "ask": _ask,
    "describe": _describe,
    "ping": _ping,
}
