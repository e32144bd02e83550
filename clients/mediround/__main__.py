"""Command line of the client: ``mediround ask``, ``segment``, ``dicom``, ``describe``, ``ping`` and ``evaluate``.

The composition root: it reads arguments, prints, and turns errors into exit codes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mediround import __version__, _annotate_entry, _commands

NOT_RUN = 2
_SERVER = "127.0.0.1:50051"
_MAX_CONCURRENCY = 64
_SEGMENT_CODES = (
    "Exit code 0: done; 1: frames failed, an object could not be written, or the server did not do it; 2: the "
    "command cannot be run as it is; 130: interrupted."
)
_CHECK_CODES = (
    "Exit code 0: a stack of frames can be asked; 1: none can; 2: the command cannot be run as it is; 130: "
    "interrupted."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 2: it could not run."""
    given = _parser().parse_args(arguments)
    try:
        code: int = given.run(given)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] == "mediround":
            raise
        return _lacking(missing, given.extra)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mediround", description="Client of MediRound serving.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    words = f"Ask questions about one image, one after the other. {_commands.CODES}"
    _add_ask(
        commands.add_parser("ask", help="ask questions about one image; a line for each answer", description=words)
    )
    words = f"Ask a template's questions on frames of DICOM objects, and write what is found. {_SEGMENT_CODES}"
    _add_segment(commands.add_parser("segment", help="a template on DICOM files", description=words))
    dicom = commands.add_parser("dicom", help="DICOM files, without a server").add_subparsers(
        required=True, metavar="COMMAND"
    )
    words = f"Say what `mediround segment` would do with DICOM objects. {_CHECK_CODES}"
    _add_check(dicom.add_parser("check", help="syntax, decoder, window, geometry; and why not", description=words))
    describe = commands.add_parser(
        "describe", help="which model a server serves, with which limits and modes", description=_commands.CODES
    )
    describe.add_argument("--json", action="store_true", help="as JSON")
    _add_server(describe, "describe")
    ping = commands.add_parser("ping", help="whether a server serves", description=_commands.CODES)
    ping.add_argument("--wait", type=_commands.timeout, metavar="SECONDS", help="wait until it does, so long")
    _add_server(ping, "ping")
    evaluate = commands.add_parser(
        "evaluate",
        help="replay a data set through a running server and report gIoU, cIoU and Dice",
        description="Replay a data set in the MR-MedSeg form and report gIoU, cIoU and Dice. Run it again with "
        "the same --out to go on after an interruption. Exit code 0: done; 1: items failed, they are listed; "
        "2: the run could not begin or go on.",
    )
    _add_evaluate(evaluate)
    _annotate_entry.add(commands)
    return parser


def _add_ask(ask: argparse.ArgumentParser) -> None:
    ask.add_argument("image", type=Path, metavar="IMAGE", help="a PNG, JPEG, TIFF or DICOM file")
    ask.add_argument("question", nargs="+", metavar="QUESTION", help="what to segment, in words")
    ask.add_argument(
        "--refer-to",
        type=_commands.reference,
        action="append",
        default=[],
        metavar="[QUESTION:]ROUND",
        help="the last question, or that one, is about the mask of this earlier round; counted from 0; again for "
        "further questions",
    )
    ask.add_argument("--frame", type=int, metavar="N", help="of a DICOM object, from 1; needed where it has more")
    _add_window(ask, "what the object says")
    ask.add_argument("--mode", choices=("free", "grammar", "forced"), help="how it answers (the model's default)")
    ask.add_argument("--json", action="store_true", help="print one JSON object a round")
    ask.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"a new folder: round-K.png (the mask) for each round, and {_commands.RESULTS}",
    )
    _add_server(ask, "ask")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, metavar="DICOM_OR_FOLDER", help="a file, or a folder with all below it"
    )
    _add_window(parser, "the template's, else what the object says")


def _add_window(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--window",
        type=_commands.window,
        metavar="WINDOW",
        help="CENTER,WIDTH (write --window=-600,1500) or CENTER,WIDTH,FUNCTION (LINEAR_EXACT, SIGMOID), a "
        f"preset's name, percentile, or the number of one of the object's own ({default})",
    )


def _add_segment(segment: argparse.ArgumentParser) -> None:
    _add_source(segment)
    segment.add_argument("--template", required=True, metavar="NAME", help="one that is shipped, or a .toml file")
    segment.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    segment.add_argument(
        "--seg", action="store_true", help="write DICOM SEG (what is written if nothing is chosen)"
    )
    segment.add_argument("--sr", action="store_true", help="write a DICOM report (TID 1500, unverified)")
    segment.add_argument("--sc", action="store_true", help="write pictures (Secondary Capture), not for diagnosis")
    segment.add_argument("--png", action="store_true", help="write each mask as PNG")
    segment.add_argument(
        "--stack",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="one of `dicom check`'s list; again",
    )
    segment.add_argument(
        "--frames", type=_commands.indices, metavar="LIST", help="of each stack, from 0: 3-7,9 (all)"
    )
    segment.add_argument(
        "--follow",
        action="store_true",
        help="each frame begins with its neighbour's masks",
    )
    segment.add_argument("--start", type=_commands.indices, metavar="LIST", help="with --follow (the middle)")
    segment.add_argument(
        "--given", type=Path, metavar="SEG", help="a SEG object: its masks, by label, are taken for questions"
    )
    segment.add_argument(
        "--least-score", type=float, metavar="SCORE", help="mark frames at or below it (the server's threshold)"
    )
    segment.add_argument("--in-flight", type=_concurrency, default=4, metavar="N", help="frames at once (4)")
    segment.add_argument("--batch", action="store_true", help="let interactive requests go first")
    _add_server(segment, "segment")
    segment.set_defaults(run=_segment)


def _add_check(check: argparse.ArgumentParser) -> None:
    _add_source(check)
    check.add_argument("--template", metavar="NAME", help="whether its questions would be asked")
    check.add_argument(
        "--every-frame", action="store_true", help="decode all (the first, the middle one, the last)"
    )
    check.add_argument("--json", action="store_true", help="as JSON")
    check.set_defaults(run=_check)


def _add_server(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("--server", default=_SERVER, metavar="ADDR", help=f"host:port ({_SERVER})")
    parser.add_argument(
        "--timeout", type=_commands.timeout, metavar="SECONDS", help="of one call, its repetitions included (60)"
    )
    _add_tls(parser)
    parser.set_defaults(run=_commands.run, command=command)


def _add_tls(parser: argparse.ArgumentParser) -> None:
    for name, what in (("ca", "server's issuer"), ("certificate", "this client's"), ("key", "this client's")):
        parser.add_argument(f"--tls-{name}", type=Path, metavar="PEM", help=f"TLS: {what}")


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("--server", required=True, metavar="ADDR", help="host:port")
    evaluate.add_argument("--data", type=Path, required=True, metavar="FILE", help="the data set's JSON")
    evaluate.add_argument("--root", type=Path, required=True, metavar="DIR", help="where its paths begin")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the report and the results")
    evaluate.add_argument("--policy", choices=("referenced", "always", "off"), default="referenced")
    evaluate.add_argument(
        "--answers", choices=("given", "free"), default="given", help="the data set's words, or the model's own"
    )
    evaluate.add_argument("--concurrency", type=_concurrency, default=4, metavar="N", help="items at once (4)")
    evaluate.add_argument(
        "--timeout", type=_commands.timeout, default=300.0, metavar="SECONDS", help="of one call (300)"
    )
    _add_tls(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _concurrency(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_CONCURRENCY:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {_MAX_CONCURRENCY}")
    return int(text)


def _evaluate(given: argparse.Namespace) -> int:
    try:
        from mediround.evaluate.command import run  # noqa: PLC0415  # its extra need not be installed
    except ModuleNotFoundError as missing:
        return _lacking(missing, "evaluate")
    return run(given)


def _segment(given: argparse.Namespace) -> int:
    try:
        from mediround.dicom.command.segment import run  # noqa: PLC0415  # as above
    except ModuleNotFoundError as missing:
        return _lacking(missing, "dicom")
    return run(given)


def _check(given: argparse.Namespace) -> int:
    try:
        from mediround.dicom.command.check import run  # noqa: PLC0415  # as above
    except ModuleNotFoundError as missing:
        return _lacking(missing, "dicom")
    return run(given)


def _lacking(missing: ModuleNotFoundError, extra: str) -> int:
    package = str(missing.name).partition(".")[0]
    what = f"{package} is not installed: in the repository, pip install './clients[{extra}]'"
    print(f"error: {what}", file=sys.stderr)
    return NOT_RUN


if __name__ == "__main__":
    sys.exit(main())
