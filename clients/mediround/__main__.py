"""Command line of the client: ``mediround evaluate``.

The composition root: it reads arguments, prints, and turns errors into exit codes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

NOT_RUN = 2
_MAX_CONCURRENCY = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 2: it could not run."""
    given = _parser().parse_args(arguments)
    code: int = given.run(given)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mediround", description="Client of MediRound serving.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    evaluate = commands.add_parser(
        "evaluate",
        help="replay a data set through a running server and report gIoU, cIoU and Dice",
        description="Replay a data set in the MR-MedSeg form and report gIoU, cIoU and Dice. Run it again with "
        "the same --out to go on after an interruption. Exit code 0: done; 1: items failed, they are listed; "
        "2: the run could not begin or go on.",
    )
    evaluate.add_argument("--server", required=True, metavar="ADDR", help="host:port")
    evaluate.add_argument("--data", type=Path, required=True, metavar="FILE", help="the data set's JSON")
    evaluate.add_argument("--root", type=Path, required=True, metavar="DIR", help="where its paths begin")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the report and the results")
    evaluate.add_argument("--policy", choices=("referenced", "always", "off"), default="referenced")
    evaluate.add_argument(
        "--answers", choices=("given", "free"), default="given", help="the data set's words, or the model's own"
    )
    evaluate.add_argument("--concurrency", type=_concurrency, default=4, metavar="N", help="items at once (4)")
    evaluate.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="of one call (300)")
    for name, what in (("ca", "server's issuer"), ("certificate", "this client's"), ("key", "this client's")):
        evaluate.add_argument(f"--tls-{name}", type=Path, metavar="PEM", help=f"TLS: {what}")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _concurrency(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_CONCURRENCY:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {_MAX_CONCURRENCY}")
    return int(text)


def _evaluate(given: argparse.Namespace) -> int:
    try:
        from mediround.evaluate.command import run  # noqa: PLC0415  # its extra need not be installed
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        what = f"{package} is not installed: in the repository, pip install './clients[evaluate]'"
        print(f"error: {what}", file=sys.stderr)
        return NOT_RUN
    return run(given)


if __name__ == "__main__":
    sys.exit(main())
