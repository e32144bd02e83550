"""Start the service on a bundle, hold its dialogues, and show what came back.

Prints a table, and writes one picture a dialogue and one page. Talks to the service through the published
client alone, as any integrator would.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from demo.overlay import PicturePanel, strip
from demo.page import DialogueSection, render
from demo.sittings import first_sitting, second_sitting
from demo.slices import LABELS, SliceDialogue, dialogues
from demo.stack import ONNX, TRITON, halves, server
from demo.table import COLUMNS, HEADER, AnsweredRound, table
from loadtest.server_process import LaunchError
from mediround import Client, RoundResult, __version__

BUNDLED = Path("models/mediround-lite")
TITLE = "MediRound-Lite: dialogues about held-out slices of one head"
NOTES = [
    "Research and education only: not for clinical use. One head (Colin27), the model saw other slices of it.",
    "Filled: the model's mask. Blue line: the earlier mask that the question refers to. Dotted: the atlas.",
    "The patient's left is on the image's right, as a DICOM viewer shows axial slices.",
]


def hold(client: Client, dialogue: SliceDialogue) -> Iterator[AnsweredRound]:
    """Ask live, round by round, as a person would."""
    with client.open(dialogue.path) as session:
        results: list[RoundResult] = []
        for asked in dialogue.rounds:
            earlier = None if asked.refer_to is None else results[asked.refer_to]
            if earlier is not None and earlier.mask is None:
                raise SystemExit(f"round {earlier.index} has no mask to refer to; its answer: {earlier.answer}")
            results.append(session.ask(asked.question, refer_to=earlier))
            yield AnsweredRound(asked, results[-1])


def section(dialogue: SliceDialogue, answered: list[AnsweredRound]) -> DialogueSection:
    panels = [
        PicturePanel(
            heading=f"{a.result.index}. {a.asked.question}",
            footing=f"{a.result.answer}  Dice {a.dice:.2f}",
            mask=a.result.mask,
            reference=None if a.asked.refer_to is None else answered[a.asked.refer_to].result.mask,
            truth=a.asked.truth,
        )
        for a in answered
    ]
    name = dialogue.path.stem
    return DialogueSection(name, name, strip(dialogue.image, panels), HEADER, [a.row() for a in answered])


def run(
    bundle: Path, slices: Path, out: Path, console: Console, *, engine: str | None, vision: str
) -> list[AnsweredRound]:
    """All dialogues; writes pictures and the page into ``out``."""
    listed = list(dialogues(slices))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress, TemporaryDirectory() as kept:
        task = progress.add_task(f"starting the server on {bundle}", total=sum(len(d.rounds) for d in listed))
        file = ["--sessions.store", "sqlite", "--sessions.path", str(Path(kept) / "sessions.db")]
        with halves(bundle, out, engine, vision) as joined:
            with server(bundle, out / "server.log", joined, file) as running, Client(running.address) as client:
                progress.update(task, description="asking")
                answered = [asked(client, each, console, partial(progress.advance, task)) for each in listed]
                begun = first_sitting(client, listed)
            sections = [section(*each) for each in zip(listed, answered, strict=True)]
            if begun is not None:
                progress.update(task, description="starting another server")
                log = out / "server_again.log"
                with server(bundle, log, joined, file) as running, Client(running.address) as client:
                    sections.append(second_sitting(client, begun))
    for each in sections:
        each.picture.save(out / f"{each.name}.png", optimize=True)
    (out / "index.html").write_text(render(TITLE, NOTES, sections))
    return [each for dialogue in answered for each in dialogue]


def asked(
    client: Client, dialogue: SliceDialogue, console: Console, advance: Callable[[], None]
) -> list[AnsweredRound]:
    """One dialogue, and its table."""
    answered = []
    for one in hold(client, dialogue):
        answered.append(one)
        advance()
    console.print(table(dialogue.path.stem, answered))
    return answered


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="directory of the model (%(default)s)")
    parser.add_argument(
        "--slices",
        type=Path,
        default=BUNDLED / "slices",
        help="labelled slices to ask about: labels.json, dialogues.json and pictures (%(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    parser.add_argument("--engine", help="run the language half in a process of its own, on this engine")
    parser.add_argument("--vision", choices=(ONNX, TRITON), default=ONNX, help="what runs the vision half")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write what is printed as a picture too")
    given = parser.parse_args()
    if not (given.slices / LABELS).is_file():
        parser.error(f"--slices must hold {LABELS}, as {BUNDLED / 'slices'} does: {given.slices}")
    given.out.mkdir(parents=True, exist_ok=True)
    wide = sys.stdout.isatty() and not given.svg
    console, began = (
        Console(width=None if wide else COLUMNS, record=bool(given.svg), highlight=False),
        time.monotonic(),
    )
    try:
        answered = run(given.bundle, given.slices, given.out, console, engine=given.engine, vision=given.vision)
    except LaunchError as error:
        console.print(f"[red]{error}")
        return 1
    mean = statistics.mean(a.dice for a in answered)
    console.print(f"{len(answered)} rounds in {time.monotonic() - began:.0f} s, mean Dice {mean:.3f}.")
    console.print("Dice: overlap with the atlas (0 to 1). ms: in the server; first rounds encode.")
    console.print(f"Pictures and every stage's time: [bold]{given.out / 'index.html'}[/]", soft_wrap=True)
    console.print(NOTES[0])
    if given.svg:
        given.svg.write_text(_picture(console), encoding="utf-8")
    return 0


def _picture(console: Console) -> str:
    """What was printed, as SVG that loads nothing: Rich's own names fonts on another server."""
    return re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="make demo"), flags=re.DOTALL)


if __name__ == "__main__":
    sys.exit(main())
