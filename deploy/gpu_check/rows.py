"""The rows: what only a GPU can show, what has shown part of it without one, and the commands that show the rest.

Knows commands, what their output must say, and which lines of it are figures. Does not run them. Names in braces
are fields of ``deploy.gpu_check.commands.Places``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from exporters.tensorrt.triton_release import TENSORRT

Environment = Literal["gpu", "cuda"]
"""Of ``make env-gpu``: ONNX Runtime's build for CUDA and its build for CPUs are one module, so there are two."""
Figures = Callable[[str], list[str]]
"""Of a command's standard output, those worth keeping."""


@dataclass(frozen=True, slots=True)
class Step:
    command: str
    """As a shell reads it: variables, then words."""
    says: tuple[str, ...] = ()
    """Patterns that its output must match."""
    figures: Figures | None = None
    environment: Environment = "gpu"


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    what: str
    without: str
    """What of it is exercised without a GPU."""
    steps: tuple[Step, ...]
    log: str = ""
    """A command whose output explains a failure."""
    cleanup: str = ""
    """A command that runs after the steps, whatever became of them."""
    verified: str = "not yet"
    """When, on which GPU, and the report's link."""


@dataclass(frozen=True, slots=True)
class ByHand:
    """What needs another host, a registry's images, or weights: a person runs it."""

    what: str
    without: str
    command: str
    verified: str = "not yet"


def parity(output: str) -> list[str]:
    """Of a parity report: engines, rounds, and the largest differences."""
    report = json.loads(output)
    rounds = report["rounds"]
    largest = {
        name: max((each[name] or 0 for each in rounds), default=0) for name in ("feature_diff", "score_diff")
    }
    flipped = sum(each["flipped_pixels"] for each in rounds)
    words = ", ".join(f"largest {name} {value:.2g}" for name, value in largest.items())
    return [f"{' and '.join(report['engines'])}: {len(rounds)} rounds, {words}, {flipped} pixels flipped"]


def lines(pattern: str) -> Figures:
    """Those that hold the pattern, without an indent."""
    return lambda output: [line.strip() for line in output.splitlines() if re.search(pattern, line)]


TABLE = lines(r"^\|")
PARITY = "python -m exporters parity --bundle {golden_bundle} --golden {golden}"
CUDA_TWICE = r'"onnxruntime/CUDAExecutionProvider",\s+"onnxruntime/CUDAExecutionProvider"'
PREPARE = Step(
    "python -m exporters bundle --checkpoint {golden} --base {golden}/llava_med --clip {golden}/clip --out "
    "{golden_bundle}"
)
"""Before the first row, once."""


def _plans(bundle: str, repository: str) -> tuple[Step, ...]:
    """Written, built, kept by a second run, and taken by the check."""
    build = f"python -m exporters tensorrt --bundle {bundle} --repository {repository} --plans {{plans}}"
    return (
        Step(f"python -m exporters repository --bundle {bundle} --out {repository}"),
        Step(build, figures=lines(r"built in|warns")),
        Step(build, says=("kept image_encoder-", "kept mask_decoder-")),
        Step(
            f"python -m exporters tensorrt --check --repository {repository}",
            says=("image_encoder/1/.* is for this host\n", "mask_decoder/1/.* is for this host\n"),
            figures=lines(r"of the GPU's"),
        ),
    )


def _triton(repository: str) -> Step:
    return Step(
        "docker run --detach --name {container} --gpus all --ipc host --user {user} -p 127.0.0.1:8001:8001 "
        f"-v {repository}:/models {{image}} tritonserver --model-repository=/models "
        "--grpc-restricted-protocol=shared-memory,model-repository:admin-key={key}"
    )


LOG, STOP = "docker logs --tail 30 {container}", "docker rm --force {container}"
ROWS = (
    Row(
        name="onnxruntime",
        what="ONNX Runtime with the CUDA provider computes the golden vectors, in float32 without TF32",
        without="`--engines.provider cuda`: options, CUDA's libraries before the first session, refusal when the "
        "provider is absent or falls back (`tests/unit/runtime/test_graph.py`, "
        "`tests/service/test_process.py`)",
        steps=(Step(f"{PARITY} --provider cuda", (CUDA_TWICE,), parity, "cuda"),),
    ),
    Row(
        name="tensorrt-of-triton",
        what="the Triton image holds the TensorRT that builds the plans",
        without="as far as public pages and PyPI tell "
        "(docs/decisions/0012-plans-are-for-the-tensorrt-in-triton.md)",
        steps=(
            Step(
                "docker run --rm --entrypoint find {image} /usr /opt -name libnvinfer.so.*",
                (rf"libnvinfer\.so\.{re.escape('.'.join(TENSORRT.split('.')[:3]))}\b",),
                lines(r"libnvinfer"),
            ),
        ),
    ),
    Row(
        name="plans",
        what="TensorRT builds plans on its GPU, they load, fit its memory, and `--check` takes them; a second "
        "build keeps them",
        without="graphs through TensorRT-RTX's builder, all precisions, both sizes "
        "(`tests/unit/exporters/tensorrt/test_compiler.py`); the rest with a module of the same "
        "attributes (`tests/unit/exporters/tensorrt/test_build.py`)",
        steps=_plans("{golden_bundle}", "{golden_repository}"),
    ),
    Row(
        name="triton",
        what="Triton in its NGC container takes `model_repository/` with real plans: batches, warm-up, embeddings "
        "and masks through shared memory, and the golden vectors (float32 without TF32)",
        without="the same configurations in tritonserver 2.51.0 with an ONNX Runtime backend in TensorRT's place "
        "(`tests/triton`, `tests/parity`)",
        steps=(
            _triton("{golden_repository}"),
            Step(f"MEDIROUND_TRITON__ADMIN_KEY={{key}} {PARITY} --vision triton://127.0.0.1:8001", figures=parity),
        ),
        log=LOG,
        cleanup=STOP,
    ),
    Row(
        name="attention",
        what="which form of the image encoder's attention a GPU prefers: time and activations of ViT-B in fp16",
        without="what TensorRT-RTX makes of each form (docs/performance.md); the command, refused without a GPU "
        "(`tests/unit/benchmarks/test_commands.py`)",
        steps=(Step("python -m benchmarks.attention --gpu", (r"\| tensorrt \| fused \|",), TABLE),),
    ),
    Row(
        name="triton-batches",
        what="what batches gain: decodes a second, one and 32 at once, and how far Triton is from this process",
        without="the same command against a Triton on a CPU, which gains nothing (docs/performance.md)",
        steps=(
            *_plans("{bundle}", "{repository}"),
            _triton("{repository}"),
            Step(
                "MEDIROUND_TRITON__ADMIN_KEY={key} python -m benchmarks.triton --bundle {bundle} --triton "
                "127.0.0.1:8001",
                figures=TABLE,
            ),
        ),
        log=LOG,
        cleanup=STOP,
    ),
    Row(
        name="vllm",
        what="vLLM on a GPU computes the golden vectors: V2 model runner with the tap, CUDA graphs, async "
        "scheduling",
        without="the same on vLLM's CPU build: V1, eager and compiled (`tests/parity/test_golden.py`); V2 with "
        "async scheduling, kernels interpreted (`tests/llm/test_gpu_runner.py`); not CUDA graphs, nor a GPU's "
        "attention",
        steps=(Step(f"{PARITY} --language vllm", figures=parity),),
    ),
    Row(
        name="vllm-contract",
        what="vLLM on a GPU keeps the contract, with and without chosen rows: golden vectors, cancels, refusals, "
        "killed engine, nothing left after a storm of cancels",
        without="on the same release's CPU build: V1 (`tests/contract`, `tests/parity/test_golden.py`); all but "
        "the killed engine on V2 with async scheduling, there also preempted, and cancelled while blocks are "
        "short (`tests/llm/test_gpu_runner.py`)",
        steps=(
            Step(
                "python -m pytest -p tests.on_gpu tests/parity/test_golden.py tests/contract/test_language.py "
                "tests/contract/test_vllm.py -k '(vllm or rows or storm) and not compiled'",
                (r"\d+ passed",),
                lines(r"\d+ passed"),
            ),
        ),
    ),
    Row(
        name="chosen-rows",
        what="what chosen rows, the default, save on a GPU",
        without="the same answers with and without, on V1 (`tests/contract`) and V2 "
        "(`tests/llm/test_gpu_runner.py`); ratios and counts of small models on V1 (docs/performance.md)",
        steps=(
            Step(
                "python -m benchmarks.language --gpu --sections rows --repeats 1 --bundle {bundle}", figures=TABLE
            ),
        ),
    ),
    Row(
        name="batch-invariant",
        what="`batch_invariant` makes results independent of the batch: alone and 32 at once differ by 0",
        without="refused on a CPU: vLLM has it on GPUs alone",
        steps=(
            Step(
                "python -m benchmarks.language --gpu --batch-invariant --sections sensitivity --bundle {bundle}",
                (r"\| alone → 32 at once \| 0 / 0 \| 0 / 0 \|",),
                TABLE,
            ),
        ),
    ),
    Row(
        name="vllm-speed",
        what="vLLM's speed, and how far bfloat16 moves with the batch",
        without="ratios and counts of a small model (docs/performance.md)",
        steps=(
            Step(
                "python -m benchmarks.language --gpu --sections throughput sensitivity --repeats 1 --bundle "
                "{bundle}",
                figures=TABLE,
            ),
        ),
    ),
)
BY_HAND = (
    ByHand(
        what="images `language` and `vision` build on their bases; profile `gpu` of compose answers a round, both "
        "halves on one GPU, embeddings in memory that two containers share",
        without="linted (hadolint), schema-checked; the registries of their bases cannot be reached from CI",
        command='`make images IMAGES="orchestrator language vision"`, or `docker compose -f deploy/compose.yaml '
        "--profile gpu up --build` after docs/deployment.md, then the two rounds of README.md with "
        '`tls=Tls("deploy/secrets/server.crt")`; `mediround_triton_calls_total` of the orchestrator\'s '
        'metrics counts `embedding="shared"` alone',
    ),
    ByHand(
        what="a plan for another TensorRT version or GPU, and plans that do not fit, are refused before Triton "
        "starts",
        without="by its sidecar (`tests/unit/exporters/tensorrt/test_plans.py`); what compose's `plans-check` "
        "runs, with a module of TensorRT's attributes (`tests/deploy/test_compose.py`)",
        command="`python -m exporters tensorrt --check --repository REPO` on a host with another GPU: status 2; "
        "with `MEDIROUND_TENSORRT` or `MEDIROUND_LANGUAGE_SHARE` set to another release or to 0.97, "
        "`docker compose -f deploy/compose.yaml --profile gpu up --build` must end without Triton",
    ),
    ByHand(
        what="fp16 and bf16 plans are as close to float32 as the emulation says",
        without="emulated operator by operator (docs/vision.md)",
        command="serve float32 and variant through Triton, `mediround evaluate` on each, `python -m exporters "
        "gate --baseline A --candidate B`",
    ),
    ByHand(
        what="Triton releases after 2.51 keep the words that `serving/vision/triton/failures.py` reads",
        without="on 2.51.0",
        command="`python -m pytest tests/triton` with that release's binaries in `build/triton`",
    ),
)
