"""The command ``repository``: a bundle's image half as models of a Triton server.

Knows its arguments. Does not know what a model's configuration holds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from exporters.triton_repository import write_published, write_repository
from serving.bundle import load_bundle


def repository_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", type=Path)
    source.add_argument("--published", action="store_true", help="configurations alone, at the published sizes")
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(run=_repository)


def _repository(given: argparse.Namespace) -> int:
    if given.published:
        write_published(given.out)
    else:
        write_repository(load_bundle(given.bundle), given.out)
    return 0
