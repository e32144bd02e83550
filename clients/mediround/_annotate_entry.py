"""``mediround annotate``: its sub-commands' arguments, which need no extra to be told.

Knows arguments. Does not know what is done with them: ``mediround.annotate.command``, which may not be installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from mediround import _commands
from mediround._annotate_values import (
    hours,
    in_flight,
    items,
    margin,
    max_failures,
    place,
    rate,
    shard,
    threads,
    tolerance,
)

CODES = (
    "Exit code 0: done; 2: the command cannot be run as it is; 3: done, and items failed; 4: given up before the "
    "end, what is finished stays; 130: interrupted."
)
SERVER = "127.0.0.1:50051"
TOLERANCES = (
    ("least-dice", 0.95, "mean Dice between the runs, of each structure"),
    ("most-one-sided", 0.01, "share of rounds, not empty in both runs, with a mask in one alone"),
    ("most-score-loss", 0.02, "by which a structure's mean score may fall"),
    ("most-area-change", 0.05, "of a structure's summed areas, as a share"),
    ("most-failed", 0.001, "share of items that fail in the later run alone"),
    ("most-missing", 0.0, "share of planned items that the later run may lack, or there is no verdict"),
    ("most-dice-loss", 0.01, "by which mean Dice with targets may fall, of all and of each structure"),
    ("least-rounds", 30, "of a structure, not empty in both runs, below which there is no verdict"),
    ("least-images", 30, "with targets, below which there is no verdict"),
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``annotate`` and what is below it."""
    annotate = commands.add_parser("annotate", help="an archive's images, a dialogue each, in one index")
    below = annotate.add_subparsers(required=True, metavar="COMMAND")
    for name, words, arguments in (
        ("plan", "List a source's items, freeze them in a manifest, and say what a run will do.", _plan),
        ("run", "Ask about all items that are not finished.", _run),
        ("status", "Say how far a job is.", _status),
        (
            "compare",
            "Say how far two runs of the same items agree.",
            _compare,
        ),
        ("report", "Write a run as a folder of HTML: contact sheet, details, a reader's verdicts.", _report),
        ("verify", "Read all of a run again, and say what is wrong with it.", _verify),
        ("export", "Write what a run has found as files that others read, in the run's folder.", _export),
    ):
        parser = below.add_parser(name, help=words[0].lower() + words[1:-1], description=f"{words} {CODES}")
        arguments(parser)
        parser.set_defaults(run=_command(name), extra="annotate")


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    def run(given: argparse.Namespace) -> int:
        """Raises ModuleNotFoundError: an extra is not installed."""
        code: int = import_module(f"mediround.annotate.command.{name}").run(given)
        return code

    return run


def _plan(plan: argparse.ArgumentParser) -> None:
    plan.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder; a .csv, .jsonl, .parquet or MR-MedSeg .json file; s3:// of either; a DICOMweb URL",
    )
    _add_job(plan)
    plan.add_argument("--template", metavar="NAME", help="the dialogue: one that is shipped, or a .toml file")
    words = "where a table's paths begin: a folder, or an address of a store (where the table lies)"
    plan.add_argument("--root", type=place, metavar="DIR", help=words)
    plan.add_argument(
        "--references",
        choices=("masks", "seg"),
        help="a question that refers to another is about the archive's mask of that, where there is one: a PNG "
        "beside the image (IMAGE-QUESTION.png), or a segment of a DICOM SEG in the folder or archive",
    )
    plan.add_argument(
        "--from",
        dest="first",
        type=Path,
        metavar="REVIEW",
        help="a reader's review of one of the job's runs: images of which an item was rejected come first",
    )
    words = "as `mediround segment --window` takes it (the template's, else what the object says)"
    plan.add_argument("--window", default="", metavar="WINDOW", help=words)
    plan.add_argument(
        "--policy",
        choices=("referenced", "always", "off"),
        default="referenced",
        help="what the judge may have corrected",
    )
    plan.add_argument("--threshold", type=float, metavar="SCORE", help="what is corrected (the model's own)")
    plan.add_argument("--new-run", action="store_true", help="another model or policy than the job's: another run")
    words = "also where the source has fewer than half of the items that the job's manifest has, or can ask fewer"
    plan.add_argument("--allow-fewer", action="store_true", help=words)
    plan.add_argument("--json", action="store_true", help="print what is planned as JSON")
    _add_service(plan, "local")


def _run(run: argparse.ArgumentParser) -> None:
    _add_job(run)
    run.add_argument("--in-flight", type=in_flight, default=8, metavar="N", help="most items asked at once (8)")
    run.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="with --engine ray, of a cluster's head (one of its own, on this machine)",
    )
    run.add_argument(
        "--progress",
        choices=("bar", "json", "none"),
        help="to standard error: a bar, or a JSON line every 10 s (a bar on a terminal)",
    )
    run.add_argument(
        "--metrics", type=Path, metavar="FILE", help="keep a .prom file for node_exporter's textfile collector"
    )
    run.add_argument("--retry-failed", action="store_true", help="items that failed before are asked again")
    run.add_argument(
        "--shard", type=shard, metavar="I/N", help="part I of N, from 0: each in a process of its own"
    )
    run.add_argument(
        "--max-failures",
        type=max_failures,
        default=(None, None),
        metavar="N|P%",
        help="give up beyond so many of this start (never)",
    )
    run.add_argument("--rate", type=rate, metavar="ROUNDS", help="most rounds begun a second (any)")
    run.add_argument(
        "--between",
        type=hours,
        metavar="HH:MM-HH:MM",
        help="begin items within these hours alone, in this machine's local time",
    )
    run.add_argument(
        "--grace",
        type=_commands.timeout,
        default=30.0,
        metavar="SECONDS",
        help="for items under way when it is stopped (30)",
    )
    _add_service(run, "local", "ray")


def _status(status: argparse.ArgumentParser) -> None:
    _add_job(status)
    status.add_argument("--json", action="store_true", help="as JSON")


def _compare(compare: argparse.ArgumentParser) -> None:
    _add_job(compare)
    compare.add_argument("--earlier-job", type=Path, metavar="DIR", help="the earlier run's job (the same)")
    compare.add_argument("--earlier", default="", metavar="RUN", help="beginning of its key (the only other run)")
    compare.add_argument("--later", default="", metavar="RUN", help="of the later run (the job's current one)")
    compare.add_argument("--most", type=in_flight, default=20, metavar="N", help="disagreements listed (20)")
    _add_tolerances(compare)
    compare.add_argument("--json", action="store_true", help="as JSON")


def _report(report: argparse.ArgumentParser) -> None:
    _add_job(report)
    report.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, or an earlier report's")
    report.add_argument("--run", dest="run_key", default="", metavar="RUN", help="beginning of its key")
    words = "an earlier run: the report also has a comparison with it"
    report.add_argument("--against", default="", metavar="RUN", help=words)
    report.add_argument("--against-job", type=Path, metavar="DIR", help="the other run's job (the same)")
    _add_tolerances(report)
    report.add_argument("--most", type=items, default=10_000, metavar="N", help="items shown (10000)")
    report.add_argument("--identify", action="store_true", help="with places and identifiers of the sources")


def _verify(verify: argparse.ArgumentParser) -> None:
    _add_job(verify)
    verify.add_argument("--complete", action="store_true", help="an item without rows is wrong too")
    verify.add_argument("--json", action="store_true", help="as JSON, with the names of items")
    verify.add_argument("--stow", metavar="URL", help="count exported DICOM SEG in this DICOMweb archive")
    words = "ask N items again, twice, one at a time, and compare"
    verify.add_argument("--replay", type=items, default=0, metavar="N", help=words)
    verify.add_argument("--seed", type=int, default=0, metavar="N", help="which items are replayed (0)")
    words = "pixels whose logits lie at most so far from 0 may differ from the run's (0.0001)"
    verify.add_argument("--margin", type=margin, default=1e-4, metavar="LOGITS", help=words)
    _add_server(verify)


def _export(export: argparse.ArgumentParser) -> None:
    _add_job(export)
    export.add_argument("--png", action="store_true", help="each mask as PNG, in masks/")
    export.add_argument("--coco", action="store_true", help="all masks as COCO JSON, coco.json")
    export.add_argument("--labels", action="store_true", help="label maps that nnU-Net trains on, in labels/")
    export.add_argument("--seg", action="store_true", help="a DICOM SEG for each series, in seg/")
    export.add_argument("--stow", metavar="URL", help="the same, and stored in this DICOMweb archive")


def _add_tolerances(parser: argparse.ArgumentParser) -> None:
    for name, default, words in TOLERANCES:
        parser.add_argument(
            f"--{name}", type=tolerance, default=default, metavar="X", help=f"{words} ({default:g})"
        )


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--job", type=Path, required=True, metavar="DIR", help="the job's folder")


def _add_service(parser: argparse.ArgumentParser, *engines: str) -> None:
    parser.add_argument(
        "--engine",
        choices=(*engines, "embedded"),
        default=engines[0],
        help="what asks; embedded: a service of its own in place of --server, on --bundle (local)",
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="with --engine embedded: the model's folder")
    parser.add_argument(
        "--threads", type=threads, metavar="N", help="with --engine embedded, of each half (the usable CPUs)"
    )
    _add_server(parser)


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", default=SERVER, metavar="ADDR", help=f"host:port ({SERVER})")
    parser.add_argument(
        "--timeout",
        type=_commands.timeout,
        default=300.0,
        metavar="SECONDS",
        help="of an item, all rounds (300)",
    )
    for name, what in (("ca", "server's issuer"), ("certificate", "this client's"), ("key", "this client's")):
        parser.add_argument(f"--tls-{name}", type=Path, metavar="PEM", help=f"TLS: {what}")
