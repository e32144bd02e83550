"""``python -m benchmarks.attention``: the ViT image encoder's attention in three forms, in time and memory.

A ViT-B at 1024 with random weights. Relative positions are *added* to an array of all weights (SAM's own code),
or folded into the *product*, or folded and computed by one *fused* operator, which is what the exporters write.
On a CPU: ONNX Runtime and OpenVINO in float32, each in a process of its own, forms in turn; and what TensorRT-RTX,
which needs no GPU, makes of each form in fp16. With ``--gpu``: TensorRT in fp16 alone, built and run. Medians;
ratios are to "added" in the same runtime; an engine's memory is its activations'. Writes attention.md and
attention.json into ``--out``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.attention.engine import build, run
from benchmarks.attention.forms import FORMS, write_form, write_half
from exporters.compare.json_report import as_json
from exporters.errors import SourceError
from exporters.progress import Progress, timed
from exporters.tensorrt.gpu import find_gpu
from mediround import __version__
from serving.runtime.cpus import usable_cpus

REFERENCE = next(iter(FORMS))
ENCODES = "3"
"""In each process, of which the fastest counts."""
RTX_CAPABILITY = "8.9"
"""TensorRT-RTX builds for an architecture that is named."""


@dataclass(frozen=True, slots=True)
class Row:
    """One form in one runtime."""

    runtime: str
    form: str
    memory: int
    """Most resident bytes of the process; of an engine, what its activations take."""
    seconds: float | None = None
    """Of an encode; None where nothing ran."""
    ratio: float | None = None
    """Seconds in proportion to the reference form's, pair by pair."""
    work: float | None = None
    """The same of the seconds that all threads computed, which other work on the machine disturbs less."""
    difference: float | None = None
    """Largest of a value of the embedding, to the reference form's."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--gpu", action="store_true", help="TensorRT on this host's GPU alone")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each form and runtime (%(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    given = parser.parse_args()
    try:
        rows = list(measure(given, timed()))
    except SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (given.out / "attention.json").write_text(as_json([asdict(row) for row in rows]))
    (given.out / "attention.md").write_text(table(rows))
    print(table(rows))  # what this command makes
    return 0


def measure(given: argparse.Namespace, progress: Progress) -> Iterator[Row]:
    """Raises SourceError where a runtime or the GPU is not here."""
    capability = find_gpu().capability if given.gpu else RTX_CAPABILITY  # before minutes of exports
    given.out.mkdir(parents=True, exist_ok=True)
    graphs = {form: given.out / f"attention-{form}.onnx" for form in FORMS}
    halves = {form: path.with_stem(f"{path.stem}-fp16") for form, path in graphs.items()}
    for form, path in graphs.items():
        progress(f"exporting {form}")
        write_form(form, path)
        write_half(path, halves[form])
    for runtime in () if given.gpu else ("onnxruntime", "openvino"):
        yield from encodes(graphs, runtime, given, progress)
    yield from engines(halves, capability, given, progress)


def encodes(graphs: dict[str, Path], runtime: str, given: argparse.Namespace, progress: Progress) -> Iterator[Row]:
    """Each form in a process of its own, in turn, so that a drifting machine meets all alike."""
    runs: list[dict[str, dict[str, float]]] = []
    for repeat in range(given.repeats):
        progress(f"{runtime}, {repeat + 1} of {given.repeats}")
        runs.append({form: encode(graph, runtime, given.threads) for form, graph in graphs.items()})
    embeddings = {form: np.load(embedding_of(graph, runtime)) for form, graph in graphs.items()}
    for form, embedding in embeddings.items():
        yield Row(
            runtime,
            form,
            int(max(each[form]["peak_bytes"] for each in runs)),
            statistics.median(each[form]["seconds"] for each in runs),
            statistics.median(each[form]["seconds"] / each[REFERENCE]["seconds"] for each in runs),
            statistics.median(each[form]["cpu_seconds"] / each[REFERENCE]["cpu_seconds"] for each in runs),
            float(np.abs(embedding - embeddings[REFERENCE]).max()),
        )


def encode(graph: Path, runtime: str, threads: int) -> dict[str, float]:
    """Raises SourceError when the process fails."""
    command = [sys.executable, "-m", "benchmarks.attention.encode", str(graph), runtime, str(threads), ENCODES]
    command.append(str(embedding_of(graph, runtime)))
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own module
    if done.returncode:
        raise SourceError(f"{graph.name} by {runtime}: {done.stderr.strip().rpartition(chr(10))[2]}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def embedding_of(graph: Path, runtime: str) -> Path:
    return graph.with_name(f"{graph.stem}-{runtime}.npy")


def engines(
    graphs: dict[str, Path], capability: str, given: argparse.Namespace, progress: Progress
) -> Iterator[Row]:
    runtime = "tensorrt" if given.gpu else "tensorrt_rtx"
    reference = None
    for form, graph in graphs.items():
        progress(f"{runtime}, {form}")
        built = build(runtime, graph, capability)
        seconds = run(built.plan) if given.gpu else None
        reference = reference or seconds
        yield Row(runtime, form, built.activation or 0, seconds, seconds and reference and seconds / reference)


def table(rows: list[Row]) -> str:
    columns = "| runtime | attention | s | ratio | of CPU time | memory, GB | largest difference |"
    lines = [columns, "|---" * (columns.count("|") - 1) + "|"]
    for row in rows:
        figures = (row.seconds, row.ratio, row.work, row.memory / 1e9)
        words = ["-" if figure is None else f"{figure:.3g}" for figure in figures]
        words.append("-" if row.difference is None else f"{row.difference:.1e}")
        lines.append(f"| {row.runtime} | {row.form} | {' | '.join(words)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
