"""Replays a data set in the MR-MedSeg form through a running service, and reports how good its masks are.

    report = evaluate("127.0.0.1:50051", Path("dialogues.json"), root=Path("."), out=Path("build/evaluation"))
    report.overall.dice

Needs the extra (in the repository, ``pip install './clients[evaluate]'``). Definitions and files:
docs/evaluation.md.

Begin with ``run``, the order of work; ``item_runner`` asks, ``metrics`` compares. The client may be imported here;
nothing of the client, but its command, may import this.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from mediround._tls import Tls
from mediround.evaluate.calibration import Calibration
from mediround.evaluate.ledger import Run, RunError
from mediround.evaluate.report import Data, EvaluationReport, Failure, Figures
from mediround.evaluate.run import DEFAULTS, Options, Progress, evaluate_async
from mediround.medseg import DataError

__all__ = [
    "Calibration",
    "Data",
    "DataError",
    "EvaluationReport",
    "Failure",
    "Figures",
    "Options",
    "Run",
    "RunError",
    "evaluate",
    "evaluate_async",
]


def evaluate(
    server: str,
    data: Path,
    root: Path,
    out: Path,
    options: Options = DEFAULTS,
    *,
    tls: Tls | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """``evaluate_async`` in an event loop of its own; the same arguments, result and errors."""
    return asyncio.run(evaluate_async(server, data, root, out, options, tls=tls, progress=progress))
