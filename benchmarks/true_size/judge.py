"""The judge's weights, kept for the plain loop before the checkpoint is consumed.

A program of its own, ``python -m benchmarks.true_size.judge``, so that its memory ends with it. Knows where a
checkpoint has them. Does not know what they compute.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from exporters.checkpoint.published import read_checkpoint


def keep() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.true_size.judge", description=__doc__)
    for name in ("checkpoint", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    judge = read_checkpoint(given.checkpoint).judge
    arrays: dict[str, Any] = {name: value.float().numpy() for name, value in judge.items()} if judge else {}
    np.savez(given.out, **arrays)


if __name__ == "__main__":
    keep()
