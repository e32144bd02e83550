"""The command ``gate``: whether a candidate's masks may stand in for a baseline's.

Knows its arguments and what it prints. Does not know how two evaluations are compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from exporters.compare import gate

_LISTED = 10
"""Masks that moved most, of those that the gate names."""


def gate_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("baseline", "candidate"):
        parser.add_argument(
            f"--{name}", type=Path, required=True, metavar="REPORT", help="report.json of mediround evaluate"
        )
    default = gate.GateTolerance()
    parser.add_argument(
        "--max-dice-loss", type=float, default=default.dice, help="over all, and of each round index (%(default)s)"
    )
    parser.add_argument(
        "--max-flipped", type=float, default=default.flipped, help="share of all pixels (%(default)s)"
    )
    parser.set_defaults(run=_gate)


def _gate(given: argparse.Namespace) -> int:
    tolerance = gate.GateTolerance(given.max_dice_loss, given.max_flipped)
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
