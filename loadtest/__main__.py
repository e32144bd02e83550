"""``python -m loadtest``: load for a running server. The command line: arguments and their help.

Knows no command's work (``loadtest.commands``), so that help needs no extra.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from mediround import __version__

NOT_RUN = 2
CODES = (
    "Exit code 0: the objective is met; 1: it is missed; 2: the run could not begin, or its report not be "
    "written; 3: the run is invalid, since the load test itself was late; 130: interrupted."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    given = _parser().parse_args(arguments)
    try:
        from loadtest import commands  # noqa: PLC0415  # its extra need not be installed to be told of
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        print(
            f"error: {package} is not installed: in the repository, pip install ./clients '.[load]'",
            file=sys.stderr,
        )
        return NOT_RUN
    return commands.run(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="Load for a running server.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="one scenario, at one rate", description=CODES)
    _add_load(run)
    run.add_argument("--rate", type=_positive, metavar="R", help="dialogues a second, instead of the scenario's")
    run.set_defaults(command="run")
    knee = commands.add_parser(
        "knee",
        help="the highest rate at which the objective is met, and goodput and memory beyond it",
        description=f"{CODES} Here the objective is: there is a knee, and beyond it goodput holds and memory is "
        "bounded.",
    )
    _add_load(knee)
    knee.add_argument("--least", type=_positive, metavar="R", help="rate to begin with (the scenario's)")
    knee.add_argument(
        "--most", type=_positive, metavar="R", help="highest rate that may be tried (256 times that)"
    )
    knee.add_argument("--precision", type=_positive, default=0.1, metavar="SHARE", help="of the knee's rate (0.1)")
    knee.add_argument("--overload", type=_positive, default=3.0, metavar="N", help="last run, in knees (3)")
    knee.add_argument(
        "--goodput",
        type=_positive,
        default=0.8,
        metavar="SHARE",
        help="of the knee's, wanted in the last run (0.8)",
    )
    knee.add_argument(
        "--memory",
        type=_positive,
        metavar="SHARE",
        help="of the server's peak resident memory at the knee, allowed in the last run; needs --metrics (1.5)",
    )
    knee.set_defaults(command="knee")
    comparison = commands.add_parser(
        "compare",
        help="two reports of one scenario",
        description="Exit code 0: B is not worse; 1: it is; 2: the reports cannot be read or compared.",
    )
    comparison.add_argument("before", type=Path, metavar="A", help="a report's directory, or its report.json")
    comparison.add_argument("after", type=Path, metavar="B")
    comparison.add_argument(
        "--tolerance", type=_positive, default=0.1, metavar="SHARE", help="that does not count (0.1)"
    )
    comparison.add_argument("--different", action="store_true", help="compare reports of different scenarios")
    comparison.set_defaults(command="compare")
    return parser


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", required=True, metavar="ADDR", help="host:port of the server")
    parser.add_argument("--scenario", type=Path, required=True, metavar="FILE", help="see loadtest/scenarios")
    parser.add_argument("--out", type=Path, default=Path("build/loadtest"), metavar="DIR", help="for the report")
    parser.add_argument(
        "--metrics",
        action="append",
        default=[],
        metavar="ADDR",
        help="host:port, or URL, of the server's metrics; again for each further process of it: counters, and the "
        "highest memory of each, are added up",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="another one sends other images (0)")
    parser.add_argument("--duration", type=_positive, metavar="S", help="time measured, instead of the scenario's")
    for name, what in (("ca", "server's issuer"), ("certificate", "this client's"), ("key", "this client's")):
        parser.add_argument(f"--tls-{name}", type=Path, metavar="PEM", help=f"TLS: {what}")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be a number above 0")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError("must be a whole number from 0, below 2**32")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
