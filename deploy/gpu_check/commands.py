"""Running the rows' commands: in which environment, for how long, and what their output must say.

Knows processes and places. Does not know what a command is for.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.gpu_check.rows import Environment, Step
from exporters.tensorrt.triton_release import IMAGE

_TOLD = 12
"""Last lines of a failed command that its error repeats."""


class StepError(Exception):
    """A command failed, took too long, or did not say what it must."""


@dataclass(frozen=True, slots=True)
class Places:
    """What commands name in braces. Paths are absolute: docker mounts no others."""

    bundle: str
    golden: str
    golden_bundle: str
    golden_repository: str
    repository: str
    plans: str
    environments: str
    """Directory of the environments."""
    key: str
    """Triton's admin key, made for one run."""
    user: str = str(os.getuid())
    container: str = "mediround-gpu-check"
    image: str = IMAGE

    @classmethod
    def under(cls, work: Path, bundle: Path, golden: Path, environments: Path, key: str) -> Places:
        """Everything that is made lies in ``work``."""
        made = work.resolve()
        return cls(
            bundle=str(bundle.resolve()),
            golden=str(golden.resolve()),
            golden_bundle=str(made / "golden-bundle"),
            golden_repository=str(made / "golden-repository"),
            repository=str(made / "repository"),
            plans=str(made / "plans"),
            environments=str(environments.resolve()),
            key=key,
        )

    def python(self, environment: Environment) -> str:
        return f"{self.environments}/{environment}/bin/python"

    def words(self, step: Step) -> tuple[dict[str, str], list[str]]:
        """The variables and the words of a command."""
        words = [word.format(**asdict(self)) for word in shlex.split(step.command)]
        split = next(number for number, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
        variables = dict(word.split("=", 1) for word in words[:split])
        program = self.python(step.environment) if words[split] == "python" else words[split]
        return variables, [program, *words[split + 1 :]]


@dataclass(frozen=True, slots=True)
class Ran:
    seconds: float
    figures: tuple[str, ...]


def run(step: Step, places: Places, seconds: float) -> Ran:
    """Run it for ``seconds`` at most, with all that it starts.

    Raises:
        StepError: the message repeats the command and the end of its output.
    """
    variables, words = places.words(step)
    command, began = shlex.join(words), time.monotonic()
    try:
        process = subprocess.Popen(  # noqa: S603  # one of rows.py's
            words,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # vLLM starts processes of its own
        )
    except OSError as error:
        raise StepError(f"`{command}` does not start: {words[0]}: {error.strerror}") from error
    with process:
        try:
            out, err = process.communicate(timeout=max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            raise StepError(f"`{command}` was not done after {seconds:.0f} s, when the time was over") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise StepError(f"`{command}` ended with status {process.returncode}: {_end(out, err)}")
    missing = [pattern for pattern in step.says if not re.search(pattern, out + err)]
    if missing:
        raise StepError(f"`{command}` did not say {' nor '.join(missing)}: {_end(out, err)}")
    # A report is on standard output, steps with their figures on standard error.
    figures = (step.figures(out) or step.figures(err)) if step.figures else []
    return Ran(time.monotonic() - began, tuple(figures))


def _end(out: str, err: str) -> str:
    return "\n".join((out + err).strip().splitlines()[-_TOLD:]) or "no output"
