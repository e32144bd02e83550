"""Command line: make bundles, random checkpoints, model repositories; record and replay dialogues,
compare evaluations.

The composition root of the exporters: it finds the command, and turns errors into exit codes. The module of a
command is imported when the command is asked for, since each needs other extras.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from exporters.errors import SourceError
from mediround import __version__
from mediround.medseg import DataError
from serving.bundle import BundleError

_EXPORT = "./clients '.[export]'"


@dataclass(frozen=True, slots=True)
class Command:
    module: str
    """Of ``exporters.cli``; its function ``<command>_arguments`` adds the command's arguments to a parser."""
    help: str
    needs: str = _EXPORT
    """What to give ``pip install``, in the repository."""


COMMANDS = {
    "bundle": Command("bundle", "a checkpoint in the published layout → a bundle"),
    "random": Command("bundle", "a random checkpoint with its llava_med/ (base) and clip/ directories"),
    "parity": Command(
        "parity", "replay recorded dialogues; JSON report, exit 1 beyond tolerance", "./clients '.[cpu]'"
    ),
    "record": Command(
        "record",
        "dialogues → a REGRESSION set by our own engines, for parity; golden is the published code's alone",
        "./clients '.[cpu]'",
    ),
    "vision": Command(
        "vision", "a bundle whose image half computes in another precision; exit 1: not close enough"
    ),
    "tensorrt": Command("vision", "TensorRT plans of a bundle's image half, in a model repository"),
    "repository": Command("repository", "a bundle → a model repository for Triton", "./clients '.[cpu]'"),
    "gate": Command(
        "gate", "compare two evaluations; exit 1 when the candidate is worse", "'./clients[evaluate]' '.[cpu]'"
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 0: done, 1: parity or gate failed, 2: a source or bundle is not usable."""
    words = sys.argv[1:] if arguments is None else arguments
    chosen = next((word for word in words if not word.startswith("-")), "")
    try:
        given = _parser(chosen).parse_args(words)
        code: int = given.run(given)
    except ModuleNotFoundError as missing:
        print(f"error: {_not_installed(missing, chosen)}", file=sys.stderr)
        return 2
    except (SourceError, BundleError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)  # this is the command line
        return 2
    return code


def _parser(chosen: str) -> argparse.ArgumentParser:
    """Knows the names of all commands, and the arguments of the chosen one."""
    parser = argparse.ArgumentParser(prog="python -m exporters", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        added = commands.add_parser(name, help=command.help)
        if name == chosen:
            getattr(import_module(f"exporters.cli.{command.module}"), f"{name}_arguments")(added)
    return parser


def _not_installed(missing: ModuleNotFoundError, chosen: str) -> str:
    """Raises ``missing`` again where it is a module of ours: a fault, not a lacking extra."""
    package = str(missing.name).partition(".")[0]
    if package in {"exporters", "serving", "mediround"} or chosen not in COMMANDS:
        raise missing
    return f"{package} is not installed: `{chosen}` needs, in the repository, pip install {COMMANDS[chosen].needs}"


if __name__ == "__main__":
    sys.exit(main())
