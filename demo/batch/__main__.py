"""``python -m demo.batch``: the bundled slices in seeded variants, annotated as an archive is.

The run is killed on the way and goes on; what it leaves is verified, and part of it asked again; a second model's
run, whose service is killed, is compared with it; the report is built. The last line says whether all of it is as
it must be.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from demo.batch.killing import annotate, begun, held, is_at_work, killed
from demo.batch.models import write_other
from demo.batch.variants import write_variants
from loadtest.server_process import LaunchError, launched
from mediround import __version__

BUNDLED = Path("models/mediround-lite")
TEMPLATE = "brain-t1-deep-nuclei"
SEED = 7


@dataclass(slots=True)
class Steps:
    """What was done so far, and what was not as it must be."""

    failures: list[str] = field(default_factory=list)

    def check(self, step: str, *words: str, expected: int = 0) -> str:
        """Run one command and say how it went; what it printed."""
        code, said = annotate(*words)
        if not self._ended(step, code, expected):
            print(said, file=sys.stderr)
        return said

    def ended(self, step: str, process: subprocess.Popen[bytes], expected: int | None) -> None:
        """Say how a command ended; ``expected`` None: it must still run."""
        self._ended(step, process.poll(), expected)

    def note(self, step: str, *, well: bool) -> None:
        """Say how something went."""
        print(f"{'ok' if well else 'FAILED':6} {step}", flush=True)
        if not well:
            self.failures.append(step)

    def _ended(self, step: str, code: int | None, expected: int | None) -> bool:
        well = code == expected
        self.note(step if well else f"{step}: exit code {code}", well=well)
        return well


@dataclass(frozen=True, slots=True)
class Choice:
    """What the demonstration does.

    Attributes:
        bundle: the model.
        out: a folder, made anew.
        variants: of every slice.
        kills: of the first run.
        replay: items that are asked again.
        engine: ``local`` or ``ray``.
    """

    bundle: Path
    out: Path
    variants: int
    kills: int
    replay: int
    engine: str


def run(choice: Choice, steps: Steps) -> None:
    job, images = str(choice.out / "job"), choice.out / "images"
    count = write_variants(choice.bundle / "slices", images, choice.variants, SEED)
    print(f"{count} images in {images}", flush=True)
    plan = ("plan", str(images), "--template", TEMPLATE, "--job", job)
    with launched(choice.bundle, choice.out / "first.log") as server:
        at = ("--server", server.address)
        planned = json.loads(steps.check("planned", *plan, *at, "--json"))
        index = choice.out / "job" / "runs" / planned["run"] / "index"
        print(f"{planned['items']} items, {planned['rounds']} rounds", flush=True)
        going_on = ("run", "--job", job, *at, "--engine", choice.engine)
        hit = killed(going_on, index, choice.kills, SEED)
        steps.note(f"killed (-9) at work {hit} times of {choice.kills}", well=hit > 0 or not choice.kills)
        steps.check("the run goes on to its end", *going_on)
        steps.check("verified", "verify", "--job", job, "--complete")
        steps.check("exported", "export", "--job", job, "--png", "--coco", "--labels")
        again = ("--replay", str(choice.replay))
        print(steps.check(f"{choice.replay} items asked again", "verify", "--job", job, *again, *at).strip())
    other = write_other(choice.bundle, choice.out / "other-model")
    with launched(other, choice.out / "second.log") as server:
        at = ("--server", server.address)
        second = json.loads(steps.check("planned for a second model", *plan, *at, "--new-run", "--json"))
        index = choice.out / "job" / "runs" / second["run"] / "index"
        its_run = begun(("run", "--job", job, *at, "--engine", choice.engine))
        try:
            is_at_work(its_run, index, held(index))
            server.process.kill()
            steps.ended("the second model's service killed (-9) under its run", its_run, expected=None)
            with launched(other, choice.out / "again.log", address=server.address):
                its_run.wait()
                steps.ended("its run goes on with the service started again, to its end", its_run, expected=0)
        finally:
            its_run.kill()
    steps.check("verified", "verify", "--job", job, "--complete")
    print(steps.check("compared", "compare", "--job", job).strip())
    report = ("--out", str(choice.out / "report"), "--against", planned["run"])
    steps.check("report built, with the comparison", "report", "--job", job, *report)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.batch", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="a model with slices")
    parser.add_argument("--out", type=Path, default=Path("build/batch-demo"))
    parser.add_argument("--variants", type=int, default=67, help="of each slice (67, about 2,000 rounds)")
    parser.add_argument("--kills", type=int, default=5, help="of the run (5)")
    parser.add_argument("--replay", type=int, default=84, help="items asked again (84, about 500 rounds)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    steps = Steps()
    try:
        run(Choice(given.bundle, given.out, given.variants, given.kills, given.replay, given.engine), steps)
    except (LaunchError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if steps.failures:
        print(f"FAILED: {', '.join(steps.failures)}", file=sys.stderr)
        return 1
    print(f"all is as it must be; {given.out / 'report' / 'index.html'} is the report")
    return 0


if __name__ == "__main__":
    sys.exit(main())
