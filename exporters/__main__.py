"""Command line: make bundles, random checkpoints, model repositories; replay dialogues, compare evaluations.

The composition root of the exporters: it reads arguments, prints, and turns errors into exit codes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from exporters.bundle import DEFAULTS, Choices, Sources, write_bundle
from exporters.checkpoint.random import SIZES, write_random
from exporters.cli import parity, vision
from exporters.compare import gate
from exporters.errors import SourceError
from exporters.progress import timed
from exporters.triton_repository import write_published, write_repository
from mediround.medseg import DataError
from serving.bundle import BundleError, load_bundle

_LISTED = 10
"""Masks that moved most, of those that the gate names."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 0: done, 1: parity or gate failed, 2: a source or bundle is not usable."""
    given = _parser().parse_args(arguments)
    try:
        code: int = given.run(given)
    except (SourceError, BundleError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)  # this is the command line
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m exporters", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _bundle_arguments(commands.add_parser("bundle", help="a checkpoint in the published layout → a bundle"))
    random = commands.add_parser(
        "random", help="a random checkpoint with its llava_med/ (base) and clip/ directories"
    )
    random.add_argument("--size", choices=sorted(SIZES), required=True)
    random.add_argument("--seed", type=int, default=0)
    random.add_argument("--out", type=Path, required=True)
    random.set_defaults(run=_random)
    parity.add(commands)
    vision.add(commands)
    repository = commands.add_parser("repository", help="a bundle → a model repository for Triton")
    source = repository.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", type=Path)
    source.add_argument("--published", action="store_true", help="configurations alone, at the published sizes")
    repository.add_argument("--out", type=Path, required=True)
    repository.set_defaults(run=_repository)
    _gate_arguments(
        commands.add_parser("gate", help="compare two evaluations; exit 1 when the candidate is worse")
    )
    return parser


def _gate_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("baseline", "candidate"):
        parser.add_argument(
            f"--{name}", type=Path, required=True, metavar="REPORT", help="report.json of mediround evaluate"
        )
    default = gate.Tolerance()
    parser.add_argument(
        "--max-dice-loss", type=float, default=default.dice, help="over all, and of each round index (%(default)s)"
    )
    parser.add_argument(
        "--max-flipped", type=float, default=default.flipped, help="share of all pixels (%(default)s)"
    )
    parser.set_defaults(run=_gate)


def _bundle_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="directory of pytorch_model*.bin")
    parser.add_argument("--base", type=Path, required=True, help="directory of config.json and tokenizer.model")
    parser.add_argument("--clip", type=Path, required=True, help="directory of the vision tower")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default=DEFAULTS.name)
    parser.add_argument("--version", default=DEFAULTS.version)
    parser.add_argument("--storage", choices=("fp32", "fp16"), default=DEFAULTS.storage)
    parser.add_argument(
        "--default-mode",
        choices=("forced", "free"),
        help=f"of a question that names no mode ({DEFAULTS.default_mode}; free with --template-untrained)",
    )
    parser.add_argument("--answer-template", default=DEFAULTS.template)
    parser.add_argument(
        "--template-untrained",
        action="store_true",
        help="training never showed answers in the template's words: a forced question must then give its answer",
    )
    parser.add_argument("--answer-tail", default=DEFAULTS.tail)
    parser.add_argument("--max-new-tokens", type=int, default=DEFAULTS.max_new_tokens)
    parser.add_argument("--threshold", type=float, default=DEFAULTS.threshold)
    parser.add_argument("--lora-alpha", type=float, default=DEFAULTS.alpha)
    parser.add_argument("--intended-use", default=DEFAULTS.intended_use)
    parser.set_defaults(run=_bundle)


def _bundle(given: argparse.Namespace) -> int:
    progress = timed()
    if given.template_untrained and given.default_mode == "forced":
        raise SourceError("--default-mode forced needs a trained template: leave out one of the two")
    choices = Choices(
        name=given.name,
        version=given.version,
        storage=given.storage,
        default_mode=given.default_mode or ("free" if given.template_untrained else DEFAULTS.default_mode),
        template=given.answer_template,
        template_trained=not given.template_untrained,
        tail=given.answer_tail,
        max_new_tokens=given.max_new_tokens,
        threshold=given.threshold,
        alpha=given.lora_alpha,
        intended_use=given.intended_use,
    )
    sources = Sources(given.checkpoint, given.base, given.clip)
    bundle = write_bundle(sources, choices, given.out, progress)
    progress(f"bundle {bundle.manifest.name} {bundle.manifest.version}, digest {bundle.digest}")
    return 0


def _random(given: argparse.Namespace) -> int:
    write_random(given.size, given.seed, given.out)
    return 0


def _repository(given: argparse.Namespace) -> int:
    if given.published:
        write_published(given.out)
    else:
        write_repository(load_bundle(given.bundle), given.out)
    return 0


def _gate(given: argparse.Namespace) -> int:
    tolerance = gate.Tolerance(given.max_dice_loss, given.max_flipped)
    verdict = gate.judge(gate.read(given.baseline), gate.read(given.candidate), tolerance)
    for name, change in [("all", verdict.overall), *((str(n), c) for n, c in enumerate(verdict.by_round))]:
        print(
            f"round {name:>3}: {change.masks} masks, "
            f"Dice {change.baseline_dice:.4f} -> {change.candidate_dice:.4f}, "
            f"{change.flipped_share:.4%} of pixels flipped, {change.answered_otherwise} answered otherwise"
        )
    for pair in verdict.most_moved(_LISTED):
        print(
            f"moved: item {pair.item}, round {pair.round}: {pair.flipped} of {pair.pixels} pixels, "
            f"Dice {pair.baseline.dice:.4f} -> {pair.candidate.dice:.4f}"
        )
    for problem in verdict.problems:
        print(f"FAILED: {problem}")
    if not verdict.problems:
        print("passed")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
