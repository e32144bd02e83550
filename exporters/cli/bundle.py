"""The commands that make a bundle: ``bundle``, of a checkpoint, and ``random``, a checkpoint to make one of.

Knows their arguments and what they print. Does not know how graphs are exported.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from exporters.bundle import DEFAULTS, Choices, Sources, write_bundle
from exporters.checkpoint.random import SIZES, write_random
from exporters.errors import SourceError
from exporters.progress import timed


def bundle_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="directory of pytorch_model*.bin or safetensors"
    )
    parser.add_argument("--base", type=Path, required=True, help="directory of config.json and tokenizer.model")
    parser.add_argument("--clip", type=Path, required=True, help="directory of the vision tower")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default=DEFAULTS.name)
    parser.add_argument("--version", default=DEFAULTS.version)
    parser.add_argument("--storage", choices=("fp32", "fp16"), default=DEFAULTS.storage)
    parser.add_argument(
        "--language",
        choices=("onnx", "vllm", "both"),
        help="engines that can read the language half: both where its graphs take at most 2 GiB, else vLLM",
    )
    parser.add_argument(
        "--vllm-dtype",
        choices=("source", "float32", "float16", "bfloat16"),
        help="what vLLM's weights are stored in: by default as --storage beside graphs, else as in the checkpoint",
    )
    parser.add_argument(
        "--consume",
        action="store_true",
        help="delete each file of the checkpoint once it is written; an export that is cut short has lost them",
    )
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


def random_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=sorted(SIZES), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(run=_random)


def _bundle(given: argparse.Namespace) -> int:
    progress = timed()
    if given.template_untrained and given.default_mode == "forced":
        raise SourceError("--default-mode forced needs a trained template: leave out one of the two")
    choices = Choices(
        name=given.name,
        version=given.version,
        storage=given.storage,
        language=given.language,
        vllm_dtype=given.vllm_dtype,
        consume=given.consume,
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
    write_random(given.size, given.seed, given.out, timed())
    return 0
