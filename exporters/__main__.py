"""Command line: make bundles, random checkpoints, model repositories; replay dialogues, compare evaluations.

The composition root of the exporters: it reads arguments, prints, and turns errors into exit codes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from exporters import gate, vision_commands
from exporters.bundle import DEFAULTS, Choices, Sources, write_bundle
from exporters.errors import SourceError
from exporters.golden import RecordedDialogue, read_golden
from exporters.parity import Report, Tolerance, replay, replay_with
from exporters.progress import timed
from exporters.random_checkpoint import SIZES, write_random
from exporters.repository import write_published, write_repository
from mediround.medseg import DataError
from serving.bundle import Bundle, BundleError, load_bundle
from serving.llm.vllm_engine import VllmLanguage
from serving.llm.vllm_options import ON_CPU, VllmOptions
from serving.vision.onnx import OnnxVision

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
    parity = commands.add_parser("parity", help="replay recorded dialogues; JSON report, exit 1 beyond tolerance")
    parity.add_argument("--bundle", type=Path, required=True)
    parity.add_argument("--golden", type=Path, required=True, help="a directory in the golden form")
    parity.add_argument("--threads", type=int, default=2)
    parity.add_argument(
        "--language", choices=("onnx", "vllm", "vllm-cpu"), default="onnx", help="vllm: on a GPU; float32 on both"
    )
    for name, value in (("feature", 1e-4), ("score", 1e-4), ("logit", 1e-4)):
        parity.add_argument(f"--{name}-tolerance", type=float, default=value)
    parity.set_defaults(run=_parity)
    vision_commands.add(commands)
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
    parser.add_argument(
        "--gaussian", type=Path, help="position matrix (.npy) in place of the checkpoint's rounded one"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default=DEFAULTS.name)
    parser.add_argument("--version", default=DEFAULTS.version)
    parser.add_argument("--storage", choices=("fp32", "fp16"), default=DEFAULTS.storage)
    parser.add_argument("--default-mode", choices=("forced", "free"), default=DEFAULTS.default_mode)
    parser.add_argument("--answer-template", default=DEFAULTS.template)
    parser.add_argument("--answer-tail", default=DEFAULTS.tail)
    parser.add_argument("--max-new-tokens", type=int, default=DEFAULTS.max_new_tokens)
    parser.add_argument("--threshold", type=float, default=DEFAULTS.threshold)
    parser.add_argument("--lora-alpha", type=float, default=DEFAULTS.alpha)
    parser.add_argument("--intended-use", default=DEFAULTS.intended_use)
    parser.set_defaults(run=_bundle)


def _bundle(given: argparse.Namespace) -> int:
    progress = timed()
    choices = Choices(
        name=given.name,
        version=given.version,
        storage=given.storage,
        default_mode=given.default_mode,
        template=given.answer_template,
        tail=given.answer_tail,
        max_new_tokens=given.max_new_tokens,
        threshold=given.threshold,
        alpha=given.lora_alpha,
        intended_use=given.intended_use,
    )
    sources = Sources(given.checkpoint, given.base, given.clip, given.gaussian)
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


def _parity(given: argparse.Namespace) -> int:
    tolerance = Tolerance(given.feature_tolerance, given.score_tolerance, given.logit_tolerance)
    bundle, recorded = load_bundle(given.bundle), read_golden(given.golden)
    if given.language == "onnx":
        report = asyncio.run(replay(bundle, recorded, tolerance, given.threads))
    else:
        options = ON_CPU if given.language == "vllm-cpu" else VllmOptions(dtype="float32")
        report = asyncio.run(_replay_on_vllm(bundle, recorded, tolerance, given.threads, options))
    print(json.dumps(report.json(), indent=2))  # the report is what this command is for
    return 0 if report.passed else 1


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


async def _replay_on_vllm(
    bundle: Bundle, recorded: Iterable[RecordedDialogue], tolerance: Tolerance, threads: int, options: VllmOptions
) -> Report:
    language, vision = await VllmLanguage.start(bundle, options), OnnxVision(bundle, threads)
    try:
        return await replay_with(bundle, language, vision, recorded, tolerance)
    finally:
        await language.close()
        await vision.close()


if __name__ == "__main__":
    sys.exit(main())
