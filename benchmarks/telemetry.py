"""``python -m benchmarks.telemetry``: what metrics and the log cost.

The same live dialogues on images that are held, in turn by a server without metrics and lines of rounds, and by
one with both that is scraped every second and whose status page is open while it is asked. Prints the ratio of
their throughputs, and whether it is what is wanted.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event

from benchmarks import service
from benchmarks.workload import Case, case
from loadtest.server_process import free_port, launched
from mediround import Client, __version__
from serving.runtime.cpus import usable_cpus

SCRAPE_SECONDS, LOOK_SECONDS = 1.0, 2.0
"""Prometheus scrapes every 15 s by default; the page looks every 2 s."""
LEAST = 0.97
"""Wanted: the median ratio of throughputs, with by without."""


@contextmanager
def watched(port: int) -> Iterator[None]:
    """Scrape, and look at the status, at once and while the block runs."""
    done = Event()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the host names

    def look(path: str, seconds: float) -> None:
        while True:
            with direct.open(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                answer.read()
            if done.wait(seconds):
                return

    with ThreadPoolExecutor(2) as watchers:
        watching = [
            watchers.submit(look, "/metrics", SCRAPE_SECONDS),
            watchers.submit(look, "/status.json", LOOK_SECONDS),
        ]
        try:
            yield
        finally:
            done.set()
    for watcher in watching:
        watcher.result()


def rate(client: Client, asked: Case) -> float:
    """Rounds a second; images are the same each time, so that embeddings are held."""
    seeds = list(range(asked.concurrency))
    return asked.rounds * len(seeds) / service.run(client, asked, service.round_by_round, seeds).seconds


def ratios(
    off: Client, on: Client, asked: Case, repeats: int, watching: Callable[[], AbstractContextManager[None]]
) -> list[float]:
    """With against without; each repeat in the order off, on, on, off, so that a drift meets both alike.

    Nobody is ``watching`` while the server without metrics is asked: it would pay for the other's scrapes.
    """
    found = []
    for client in (off, on):
        rate(client, asked)  # encodes
    for _ in range(repeats):
        first = rate(off, asked)
        with watching():
            both = rate(on, asked) + rate(on, asked)
        found.append(both / (first + rate(off, asked)))
    return found


def report(found: list[float], asked: Case, bundle: Path) -> str:
    low, middle, high = statistics.quantiles(found, n=4)
    return (
        f"{bundle.name}, {asked}, images held, {len(found)} repeats of four runs, {platform.machine()}, "
        f"{usable_cpus()} CPUs, load {os.getloadavg()[0]:.1f}. With metrics (scraped each {SCRAPE_SECONDS:g} s, "
        f"status every {LOOK_SECONDS:g} s, in those runs alone) and a line a round, the throughput is "
        f"{middle:.3f} of that without (median; quartiles {low:.3f} to {high:.3f}).\n"
        f"Wanted: a median of at least {LEAST}: {'met' if middle >= LEAST else 'MISSED'}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.telemetry", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=Path("models/mediround-lite"))
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--case", type=case, default=case("star:10:4"))
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    port = free_port()
    alike = [*service.PATIENT, *service.AT_ONCE]
    told = ["--metrics-listen", f"127.0.0.1:{port}", "--log-format", "json", *alike]
    logs = [options.out / f"telemetry-{name}.log" for name in ("off", "on")]
    with (
        launched(options.bundle, logs[0], ["--log-level", "warning", *alike]) as without,
        launched(options.bundle, logs[1], told) as telling,
        Client(without.address, retries=0) as off,
        Client(telling.address, retries=0) as on,
    ):
        found = ratios(off, on, options.case, options.repeats, lambda: watched(port))
    text = report(found, options.case, options.bundle)
    (options.out / f"telemetry-{options.bundle.name}.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
