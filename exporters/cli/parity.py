"""The command ``parity``: recorded dialogues, replayed on the engines that the arguments name.

Reads arguments and prints. Does not know how engines are built (``exporters.cli.engines``), nor what is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import asdict
from pathlib import Path

from exporters.cli.engines import add_arguments, engines
from exporters.compare.golden import Origin, read_golden, read_origin
from exporters.compare.json_report import as_json
from exporters.compare.parity import ParityReport, ParityTolerance, replay
from exporters.errors import SourceError
from exporters.stdout import logs_on_stderr
from serving.bundle import Bundle, load_bundle
from serving.errors import ServingError


def parity_arguments(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument(
        "--golden", type=Path, required=True, help="a directory in the golden form (docs/export.md)"
    )
    for name, value in (("feature", 1e-4), ("score", 1e-4), ("logit", 1e-4)):
        parser.add_argument(f"--{name}-tolerance", type=float, default=value)
    parser.set_defaults(run=_parity)


def _parity(given: argparse.Namespace) -> int:
    origin, bundle = read_origin(given.golden), load_bundle(given.bundle)
    if origin is not None:
        print(origin.words(), file=sys.stderr)  # beside the report
    try:
        with logs_on_stderr():
            report = asyncio.run(_replay(bundle, given))
    except (ServingError, OSError) as error:  # a dialogue too long for this bundle, a picture that is not there
        raise SourceError(f"{given.golden}: {error}") from error
    print(as_json({"recorded_by": _recorded_by(origin), **report.json()}))  # what this command is for
    return 0 if report.passed else 1


async def _replay(bundle: Bundle, given: argparse.Namespace) -> ParityReport:
    tolerance = ParityTolerance(given.feature_tolerance, given.score_tolerance, given.logit_tolerance)
    async with engines(bundle, given) as ours:
        return await replay(
            bundle, ours.language, ours.vision, read_golden(given.golden), tolerance, ours.embeddings
        )


def _recorded_by(origin: Origin | None) -> dict[str, object]:
    return {"kind": "golden"} if origin is None else {"kind": "regression", **asdict(origin)}
