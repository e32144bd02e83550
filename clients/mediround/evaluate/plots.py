"""A report as pictures: the metrics by round, and the judge's reliability diagram.

Knows reports and matplotlib. Does not know runs or files besides those it writes.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mediround.evaluate.calibration import Calibration
from mediround.evaluate.report import EvaluationReport

ROUNDS = "rounds.png"
RELIABILITY = "reliability.png"
_DPI = 120
_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#e69f00", "#009e73", "0.55"  # told apart by the colour-blind


def draw(report: EvaluationReport, directory: Path) -> None:
    """``rounds.png``, and ``reliability.png`` where there is a judge; each only if there is something to show."""
    if report.by_round:
        _save(_rounds(report), directory / ROUNDS)
    if report.judge:
        _save(_reliability(report.judge, report.judge_left_out), directory / RELIABILITY)


def _rounds(report: EvaluationReport) -> Figure:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes: Axes = figure.add_subplot()
    numbers = range(len(report.by_round))
    axes.plot(numbers, [f.dice for f in report.by_round], "o-", color=_BLUE, label="Dice")
    axes.plot(numbers, [f.giou for f in report.by_round], "s--", color=_ORANGE, label="gIoU")
    cious = [(k, f.ciou) for k, f in enumerate(report.by_round) if f.ciou is not None]
    axes.plot([k for k, _ in cious], [c for _, c in cious], "^:", color=_GREEN, label="cIoU")
    for k, figures in enumerate(report.by_round):
        axes.annotate(f"n = {figures.rounds}", (k, 0.02), ha="center", color=_GREY, fontsize="small")
    axes.set(xlabel="round index", ylabel="mean over masks (cIoU: of summed pixels)", ylim=(0, 1.02))
    axes.set_xlim(-0.5, len(report.by_round) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{report.run.model_name}: policy {report.run.policy}, answers {report.run.answers}")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _reliability(judge: Calibration, left_out: int) -> Figure:
    figure = Figure(figsize=(5.0, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.plot([0, 1], [0, 1], color=_GREY, linewidth=1, label="score = IoU")
    upper.plot(
        [b.mean_score for b in judge.bins], [b.mean_iou for b in judge.bins], "o-", color=_BLUE, label="judge"
    )
    upper.axvline(judge.threshold, color=_ORANGE, linestyle="--", linewidth=1, label="threshold")
    upper.set(ylabel="mean IoU of the masks", xlim=(0, 1), ylim=(0, 1))
    upper.set_title(f"{judge.rounds} rounds ({left_out} corrected ones left out)", fontsize="medium")
    upper.grid(alpha=0.3)
    upper.legend(loc="upper left")
    lower.bar([b.lower for b in judge.bins], [b.rounds for b in judge.bins], width=0.1, align="edge", color=_GREY)
    lower.set(xlabel="judge's score", ylabel="rounds")
    return figure


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)  # draws without a screen, whatever backend the caller's program uses
    figure.savefig(path, dpi=_DPI)
