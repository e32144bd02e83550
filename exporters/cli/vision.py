"""The commands that make engines of an image half: ``vision`` (another precision), ``tensorrt`` (plans).

Knows their arguments and what they print. Does not know how a graph is cast, compared or built.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from exporters.cli.engines import add_language_argument, vllm_language
from exporters.cli.options import refuse_unused
from exporters.compare import drift, recorded_inputs
from exporters.compare.json_report import as_json
from exporters.errors import SourceError
from exporters.progress import timed
from exporters.stdout import logs_on_stderr
from exporters.tensorrt import triton_release
from exporters.tensorrt.build import Builder, BuildPaths, build_plans, check_plans, require_release
from exporters.tensorrt.compiler import Compiler, EngineUnavailableError
from exporters.tensorrt.gpu import Gpu, find_gpu
from exporters.tensorrt.memory import GpuMemory, require_room
from exporters.tensorrt.plans import Host
from exporters.variant import Form, write_variant
from serving.bundle import load_bundle
from serving.runtime.cpus import usable_cpus

MIB = 1 << 20
DIALOGUES = 20
PLANS = Path("build/plans")


def vision_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True, help="the float32 bundle")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), required=True)
    parser.add_argument(
        "--embedding", choices=("float32", "float16"), default="float32", help="of stored embeddings (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="a new directory")
    parser.add_argument("--data", type=Path, help="dialogues in the MR-MedSeg form; made-up images by default")
    parser.add_argument("--root", type=Path, help="what the pictures' paths in --data are relative to")
    parser.add_argument("--dialogues", type=int, help=f"most of --data to take ({DIALOGUES})")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    add_language_argument(parser)
    limits = drift.DriftLimits()
    parser.add_argument("--min-cosine", type=float, default=limits.cosine, help="of embeddings (%(default)s)")
    parser.add_argument("--min-iou", type=float, default=limits.iou, help="of masks, mean (%(default)s)")
    parser.add_argument("--max-flipped", type=float, default=limits.flipped, help="of mask signs (%(default)s)")
    parser.set_defaults(run=_vision)


def _vision(given: argparse.Namespace) -> int:
    bundle, progress = load_bundle(given.bundle), timed()
    if given.data is None:
        refuse_unused(given, "root", "dialogues", unless="--data is given")
        dialogues = list(recorded_inputs.made_up())
    else:
        root, most = given.root or given.data.parent, given.dialogues or DIALOGUES
        dialogues = list(recorded_inputs.of_data_set(given.data, root, most))
    progress(f"asking {bundle.manifest.name} {bundle.manifest.version}")
    start = None if given.language == "onnx" else partial(vllm_language, bundle, given.language)
    limits = drift.DriftLimits(cosine=given.min_cosine, iou=given.min_iou, flipped=given.max_flipped)
    with logs_on_stderr():
        questions = recorded_inputs.ask(bundle, dialogues, given.threads, start)
        comparison = drift.Comparison(questions, limits, given.threads)
        verdict = write_variant(bundle, Form(given.precision, given.embedding), given.out, comparison, progress)
    print(as_json(verdict.json()))  # the report is what this command is for
    progress("nothing written: not close enough" if verdict.problems else f"wrote {given.out}")
    return 1 if verdict.problems else 0


def tensorrt_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, help="what to build; not with --check")
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "bf16"), help="refuse a bundle that computes in another"
    )
    parser.add_argument("--repository", type=Path, required=True, help="of `exporters repository` for that bundle")
    parser.add_argument("--plans", type=Path, help=f"where they are kept ({PLANS})")
    parser.add_argument(
        "--check", action="store_true", help="build nothing; exit 2 if a plan is not for this host"
    )
    parser.add_argument("--runtime", choices=("tensorrt", "tensorrt_rtx"), help="what builds them (tensorrt)")
    parser.add_argument(
        "--capability", type=_capability, help="of the GPU, such as 9.0; that of this host's by default"
    )
    parser.add_argument("--workspace-mib", type=int, help="most scratch memory of one layer on the GPU")
    parser.add_argument(
        "--server-tensorrt",
        metavar="VERSION",
        default=triton_release.TENSORRT,
        help=f"the TensorRT in Triton; %(default)s is that of {triton_release.IMAGE}",
    )
    parser.add_argument(
        "--language-share", type=_share, help="with --check: of the GPU's memory, that vLLM will take"
    )
    parser.add_argument(
        "--gpus",
        nargs=2,
        metavar=("LANGUAGE", "VISION"),
        help="with --check: each half's GPU; --language-share counts where they are one (the default)",
    )
    parser.set_defaults(run=_tensorrt)


def _tensorrt(given: argparse.Namespace) -> int:
    if (given.bundle is None) != given.check:
        raise SourceError("name a --bundle to build, or --check a repository that has plans")
    if given.check:
        refuse_unused(given, "precision", "plans", "runtime", "workspace_mib", unless="a --bundle is built")
        return _check(given)
    refuse_unused(given, "language_share", "gpus", unless="--check is given")
    return _build(given)


def _build(given: argparse.Namespace) -> int:
    progress, compiler = timed(), Compiler(_module(given.runtime or "tensorrt"))
    require_release(compiler, given.server_tensorrt)
    workspace = given.workspace_mib * MIB if given.workspace_mib else None
    workshop = Builder(compiler, _gpu(given), workspace)
    bundle = load_bundle(given.bundle)
    if given.precision not in {None, bundle.manifest.image.precision}:
        raise SourceError(
            f"{given.bundle} computes in {bundle.manifest.image.precision}: make one that computes in "
            f"{given.precision} with `python -m exporters vision`"
        )
    for plan in build_plans(bundle, BuildPaths(given.repository, given.plans or PLANS), workshop, progress):
        print(plan)  # what this command makes
    return 0


def _check(given: argparse.Namespace) -> int:
    progress, gpu = timed(), _gpu(given)
    try:
        compiler = Compiler(_module("tensorrt"))
    except EngineUnavailableError:
        compiler = None  # the sidecars say what the server needs to know
    found = check_plans(
        given.repository, Host("tensorrt", given.server_tensorrt, gpu.capability), compiler, progress
    )
    if gpu.memory is None:
        progress("memory is not summed: nvidia-smi did not say how much the GPU has")
    else:
        apart = given.gpus is not None and given.gpus[0] != given.gpus[1]
        progress(require_room(found, GpuMemory(gpu.memory, 0.0 if apart else given.language_share or 0.0)))
    return 0


def _gpu(given: argparse.Namespace) -> Gpu:
    return Gpu(given.capability) if given.capability else find_gpu()


def _module(runtime: str) -> Any:
    """Imported when it is asked for: serving and the other exporters never need it."""
    try:
        return import_module(runtime)
    except (ImportError, OSError) as error:
        raise EngineUnavailableError(f"{runtime} is not there ({error}): see docs/vision.md") from error


def _capability(text: str) -> str:
    if not re.fullmatch(r"\d{1,2}\.\d", text):
        raise argparse.ArgumentTypeError(f"must be of the form 9.0, not {text!r}")
    return text


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to below 1, not {text!r}")
    return share
