"""The command ``record``: dialogues, answered and recorded by this project's own engines as a regression set.

Reads arguments and prints. Does not know how engines are built (``exporters.cli.engines``), nor what is recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from exporters.cli.engines import add_arguments, engines
from exporters.compare.golden import Origin
from exporters.compare.regression import record
from exporters.errors import SourceError
from exporters.progress import timed
from exporters.stdout import logs_on_stderr
from serving.bundle import Bundle, load_bundle


def record_arguments(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument(
        "--data", type=Path, required=True, help="dialogues in the MR-MedSeg form (docs/evaluation.md)"
    )
    parser.add_argument("--root", type=Path, required=True, help="directory that paths in --data are relative to")
    parser.add_argument("--out", type=Path, required=True, help="a new directory")
    parser.set_defaults(run=_record)


def _record(given: argparse.Namespace) -> int:
    bundle = load_bundle(given.bundle)
    try:
        with logs_on_stderr():
            origin = asyncio.run(_recorded(bundle, given))
    except OSError as error:
        raise SourceError(str(error)) from error
    print(given.out)  # what this command makes
    print(origin.words(), file=sys.stderr)
    return 0


async def _recorded(bundle: Bundle, given: argparse.Namespace) -> Origin:
    async with engines(bundle, given) as ours:
        halves = ours.language, ours.vision, ours.embeddings
        return await record(bundle, *halves, given.data, given.root, given.out, timed())
