"""``make true-size``: a random model of the published size made, exported, served, asked and checked.

Makes a checkpoint, exports it, serves it (the language half on vLLM's CPU build in bfloat16, the image encoder on
OpenVINO in float32), asks one dialogue of three rounds, and compares what the language half answered with a plain
loop over the same weights. Then a byte of the largest file is changed, which server and exporters must refuse.
Exit code 0: all agree; 1: something does not; 2: this machine lacks what that takes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.true_size import needs, verdict
from benchmarks.true_size.damage import LARGE, largest_file, refusals
from benchmarks.true_size.dialogue import Served, serve
from benchmarks.true_size.processes import Stage, StageFailed, run
from benchmarks.true_size.report import markdown
from loadtest.server_process import LaunchError
from mediround import __version__
from serving.bundle import Bundle, load_bundle

MAX_NEW_TOKENS = "6"
DISAGREES, LACKING = 1, 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.true_size", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--size", choices=sorted(needs.SIZES), default="mediround-7b", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--consume", action="store_true", help="delete the checkpoint's files as they are exported"
    )
    parser.add_argument("--out", type=Path, default=Path("build/true-size"), help="(%(default)s)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in ("checkpoint", "bundle"):
        shutil.rmtree(given.out / name, ignore_errors=True)  # of a run before
    print(needs.words(given.size, consume=given.consume), flush=True)
    if lacking := needs.lacking(given.size, given.out, consume=given.consume):
        print("this machine lacks:", *lacking, sep="\n- ", file=sys.stderr)
        return LACKING
    try:
        return _walk(given)
    except (StageFailed, LaunchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return DISAGREES


def _walk(given: argparse.Namespace) -> int:
    graph = needs.SIZES[given.size].graph_size
    stages, refused = _graph_damaged(graph, given) if graph else ([], [])
    stages += _made(given)
    bundle = load_bundle(given.out / "bundle")
    began = time.monotonic()
    served = serve(bundle, given.out)
    stages.append(Stage("serve and ask", time.monotonic() - began, 0))
    served.recording.save(given.out / "recording.npz")
    stages.append(_loop(given.out))
    findings = compared(bundle, served, given.out / "loop.npz")
    stages.append(_damaged(bundle, given, refused))
    text = markdown(given.size, bundle, stages, served, findings, refused)
    (given.out / "report.md").write_text(text, encoding="utf-8")
    (given.out / "findings.json").write_text(json.dumps([asdict(each) for each in findings], indent=2) + "\n")
    print(text, flush=True)
    return 0 if all(each.agrees for each in findings) else DISAGREES


def _damaged(bundle: Bundle, given: argparse.Namespace, refused: list[str]) -> Stage:
    """Adds what was refused."""
    size = largest_file(bundle).stat().st_size
    if needs.SIZES[given.size].graph_size and size <= LARGE:
        raise StageFailed(f"the largest file has {size} bytes: must be more than {LARGE} to show anything")
    began = time.monotonic()
    refused += refusals(bundle, given.out)
    return Stage(f"damage {largest_file(bundle).name}", time.monotonic() - began, 0)


def _graph_damaged(size: str, given: argparse.Namespace) -> tuple[list[Stage], list[str]]:
    """A bundle whose language graph keeps more than 2 GiB of weights beside it, made, damaged and removed."""
    refused: list[str] = []
    checkpoint, out = given.out / "graph-checkpoint", given.out / "graph-bundle"
    try:
        stages = [
            run(f"make {size}", "exporters", ["random", "--size", size, "--out", str(checkpoint)]),
            run(f"export {size} as graphs", "exporters", [*_export(checkpoint, out), "--language", "onnx"]),
        ]
        stages.append(_damaged(load_bundle(out), given, refused))
    finally:
        for directory in (checkpoint, out):
            shutil.rmtree(directory, ignore_errors=True)
    return stages, refused


def _made(given: argparse.Namespace) -> list[Stage]:
    """The checkpoint, its judge set aside, and the bundle, each by a command of its own."""
    checkpoint, bundle, judge = (given.out / name for name in ("checkpoint", "bundle", "judge.npz"))
    random = ["random", "--size", given.size, "--seed", str(given.seed), "--out", str(checkpoint)]
    export = [*_export(checkpoint, bundle), "--language", "vllm", "--name", given.size]
    return [
        run("make the checkpoint", "exporters", random),
        run(
            "keep its judge", "benchmarks.true_size.judge", ["--checkpoint", str(checkpoint), "--out", str(judge)]
        ),
        run("export", "exporters", [*export, *(["--consume"] if given.consume else [])]),
    ]


def _export(checkpoint: Path, out: Path) -> list[str]:
    base, clip = str(checkpoint / "llava_med"), str(checkpoint / "clip")
    sources = ["--checkpoint", str(checkpoint), "--base", base, "--clip", clip]
    return ["bundle", *sources, "--out", str(out), "--max-new-tokens", MAX_NEW_TOKENS]


def _loop(out: Path) -> Stage:
    files = {"bundle": "bundle", "recording": "recording.npz", "judge": "judge.npz", "out": "loop.npz"}
    flags = [word for name, file in files.items() for word in (f"--{name}", str(out / file))]
    return run("plain loop, fp32 and bf16", "benchmarks.true_size.loop", flags)


def compared(bundle: Bundle, served: Served, results: Path) -> list[verdict.Finding]:
    """Everything that was served against the plain loop's ``results``."""
    tokens, recording = bundle.manifest.tokens, served.recording
    generated = recording.token_ids[len(recording.token_ids) - recording.words :]
    with np.load(results) as stored:
        loop = {name: stored[name] for name in stored.files}
    return [
        *verdict.features(recording.features, loop),
        *verdict.scores(recording.scores, loop),
        *verdict.words(generated, (tokens.bos, tokens.bbox, tokens.crop), loop),
    ]


if __name__ == "__main__":
    sys.exit(main())
