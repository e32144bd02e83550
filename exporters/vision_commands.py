"""The commands that make engines of an image half: ``vision`` (another precision), ``tensorrt`` (plans).

Knows their arguments and what they print. Does not know how a graph is cast, compared or built.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from exporters import asked, drift
from exporters.progress import timed
from exporters.variant import Form, write_variant
from serving.bundle import load_bundle

Commands = Any
"""What ``add_subparsers`` returns: a private type of argparse."""


def add(commands: Commands) -> None:
    """Both commands, beside the others."""
    _vision_arguments(
        commands.add_parser(
            "vision", help="a bundle whose image half computes in another precision; exit 1: not close enough"
        )
    )


def _vision_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True, help="the float32 bundle")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), required=True)
    parser.add_argument(
        "--embedding", choices=("float32", "float16"), default="float32", help="of stored embeddings (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="a new directory")
    parser.add_argument("--data", type=Path, help="dialogues in the MR-MedSeg form; made-up images by default")
    parser.add_argument("--root", type=Path, help="what the pictures' paths in --data are relative to")
    parser.add_argument("--dialogues", type=int, default=20, help="most of --data to take (%(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    limits = drift.Limits()
    parser.add_argument("--min-cosine", type=float, default=limits.cosine, help="of embeddings (%(default)s)")
    parser.add_argument("--min-iou", type=float, default=limits.iou, help="of masks, mean (%(default)s)")
    parser.add_argument("--max-flipped", type=float, default=limits.flipped, help="of mask signs (%(default)s)")
    parser.set_defaults(run=_vision)


def _vision(given: argparse.Namespace) -> int:
    bundle, progress = load_bundle(given.bundle), timed()
    if given.data is None:
        dialogues = list(asked.made_up())
    else:
        dialogues = list(asked.of_data_set(given.data, given.root or given.data.parent, given.dialogues))
    progress(f"asking {bundle.manifest.name} {bundle.manifest.version}")
    questions = asked.ask(bundle, dialogues, given.threads)
    limits = drift.Limits(cosine=given.min_cosine, iou=given.min_iou, flipped=given.max_flipped)
    comparison = drift.Comparison(questions, limits, given.threads)
    verdict = write_variant(bundle, Form(given.precision, given.embedding), given.out, comparison, progress)
    print(json.dumps(verdict.json(), indent=2))  # the report is what this command is for
    progress("nothing written: not close enough" if verdict.problems else f"wrote {given.out}")
    return 1 if verdict.problems else 0
