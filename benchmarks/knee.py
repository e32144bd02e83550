"""``python -m benchmarks.knee``: the most load that the demo's servers bear, and what they do under 3 times that.

Starts them as ``python -m demo`` does and runs ``python -m loadtest knee`` against them, whose report lies in
``--out`` and whose exit code is this one's. With ``--profile PY_SPY`` it then asks for the knee's load once more
and samples, with py-spy, which Python code of the orchestrator holds the interpreter meanwhile: what is not an
engine's. ``--rate`` skips the search, and profiles at that rate. Metrics, memory among them, are those of the
orchestrator and of the language server: vLLM's own processes and Triton do not tell theirs. Several ways of
``--encode-on-open`` are looked for one after another, each on servers of its own, into a directory of its name.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from demo.stack import ONNX, TRITON, stack
from loadtest.commands import INVALID, MET, MISSED
from loadtest.report.model import KneeReport, read
from loadtest.server_process import Launched, free_port
from mediround import __version__

SCENARIO = Path("loadtest/scenarios/interactive.toml")
PER_SECOND = 100
WAYS = ("auto", "never")
EMBEDDINGS = str(256 << 20)
"""Bytes: few enough to be full at the first rates, so that memory at two rates can be compared."""


def loadtest(command: str, server: Launched, metrics: Sequence[str], out: Path, *more: str) -> list[str]:
    fixed = ["--target", server.address, "--scenario", str(SCENARIO), "--out", str(out)]
    told = [word for address in metrics for word in ("--metrics", address)]
    return [sys.executable, "-m", "loadtest", command, *fixed, *told, *more]


def knee_rate(out: Path) -> float | None:
    """Of the report in ``out``; None: no knee was found."""
    knee = read(out, KneeReport).knee
    return knee.rate if knee else None


def spent(pid: int) -> tuple[float, float]:
    """CPU seconds of a process so far: of its event loop's thread, and of all its threads."""
    by_thread = {}
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]  # proc(5): utime and stime
        by_thread[int(stat.parent.name)] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return by_thread[pid], sum(by_thread.values())


def profile(py_spy: Path, server: Launched, load: list[str], seconds: int, sampled: Path) -> str:
    """Shares of time in which each function, or what it calls, holds the interpreter's lock under ``load``."""
    with subprocess.Popen(load, stdout=subprocess.DEVNULL) as loading:  # noqa: S603  # our own program
        asked = ["record", "--gil", "--nonblocking", "--format", "raw", "--rate", str(PER_SECOND)]
        asked += ["--duration", str(seconds)]
        before = spent(server.pid)
        subprocess.run([py_spy, *asked, "--output", sampled, "--pid", str(server.pid)], check=True)  # noqa: S603  # the user's
        loop, whole = (after - then for after, then in zip(spent(server.pid), before, strict=True))
        loading.wait()
    counted: Counter[str] = Counter()
    for line in sampled.read_text().splitlines():
        frames, _, samples = line.rpartition(" ")
        counted.update(dict.fromkeys(set(frames.split(";")), int(samples)))
    taken = PER_SECOND * seconds
    return "\n".join(
        [
            f"CPU seconds in {seconds}: {whole:.1f}, of which {loop:.1f} in the event loop's thread",
            *(f"{count / taken:7.2%}  {frame}" for frame, count in counted.most_common(80)),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.knee", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--out", type=Path, default=Path("build/knee"))
    parser.add_argument("--engine", help="run the language half in a process of its own, on this engine")
    parser.add_argument("--vision", choices=(ONNX, TRITON), default=ONNX)
    parser.add_argument("--encode-on-open", choices=WAYS, default=WAYS[:1], nargs="+", help="of the server")
    parser.add_argument("--seconds", type=int, default=60, help="measured at each rate")
    parser.add_argument("--least", help="first rate, in dialogues a second (0.5)")
    parser.add_argument("--precision", help="of the knee's rate (0.15)")
    parser.add_argument("--rate", help="do not look for the knee: profile at this rate; needs --profile")
    parser.add_argument("--profile", type=Path, metavar="PY_SPY", help="py-spy's program")
    given = parser.parse_args()
    if given.rate and not given.profile:
        parser.error("--rate must be left out unless --profile is given")
    if given.rate and (given.least or given.precision):
        parser.error("--least and --precision must be left out where --rate is given: no knee is looked for")
    ways = list(dict.fromkeys(given.encode_on_open))
    return max(measure(given, way, given.out / way if len(ways) > 1 else given.out) for way in ways)


def measure(given: argparse.Namespace, encode_on_open: str, out: Path) -> int:
    """Find the knee of servers of one way, and profile at it; its exit code."""
    out.mkdir(parents=True, exist_ok=True)
    metrics = [f"127.0.0.1:{free_port()}" for _ in range(2 if given.engine else 1)]
    flags, *beside = [["--metrics-listen", address, "--log-format", "json"] for address in metrics]
    flags += ["--admission.encode-on-open", encode_on_open, "--engines.embedding-bytes", EMBEDDINGS]
    code, language = MET, beside[0] if beside else []
    with stack(given.bundle, out, given.engine, given.vision, flags, language_flags=language) as server:
        how = ["--duration", str(given.seconds), "--least", given.least or "0.5"]
        how += ["--precision", given.precision or "0.15"]
        if given.rate is None:
            asked = loadtest("knee", server, metrics, out, *how)
            code = subprocess.run(asked, check=False).returncode  # noqa: S603  # our own
        if given.profile and code in {MET, MISSED, INVALID}:
            rate = given.rate or knee_rate(out)
            if rate is None:
                print("no knee was found, so there is no rate to profile at: give --rate", file=sys.stderr)
                return MISSED
            again = ["--duration", str(given.seconds), "--rate", str(rate)]
            load = loadtest("run", server, metrics, out / "profiled", *again)
            print(profile(given.profile, server, load, given.seconds, out / "profile.txt"))
    return code


if __name__ == "__main__":
    sys.exit(main())
