"""The Ray engine: the same index as the local one's, and either goes on with the other's run.

On one cluster for all, which is not of this process: it takes seconds to start.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loadtest.server_process import free_port
from mediround.annotate.engines.interface import Engine
from mediround.annotate.engines.local import LocalEngine
from mediround.annotate.engines.ray import RayEngine
from mediround.annotate.engines.ray_actor import Annotator
from mediround.annotate.errors import AnnotateError, JobError, OtherRun, Stopped
from mediround.annotate.job import Job, Run
from mediround.annotate.work import Left
from mediround.testing import DESCRIPTION, ScriptedServer
from tests.unit.client.annotate import test_local_engine as local
from tests.unit.client.annotate.jobs import fill_disk

found, options, watch = local.found, local.options, local.watch
job, run, server = local.job, local.run, local.server  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own calls; nothing here can act
OF_THE_TIME = ("finished", "seconds", "seconds_queue", "seconds_encode", "seconds_language", "seconds_decode")
SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Cluster:
    address: str
    process: "subprocess.Popen[str]"


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written into the home directory
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def cluster(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Its workers are in another folder than who asks it."""
    address = f"127.0.0.1:{free_port()}"
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "start", "--head", "--block", "--include-dashboard=false", "--num-cpus=6"]
    command += ["--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}"]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with subprocess.Popen(
        command, cwd=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert any("Ray runtime started" in line for line in process.stdout or ())
            yield Cluster(address, process)
        finally:
            for number in (*below(process), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)  # asked to end, it takes half a minute


@pytest.fixture
def engine(cluster: Cluster) -> RayEngine:
    return RayEngine(cluster.address)


def said(run: Run) -> list[dict[str, object]]:
    rows = sorted(found(run), key=lambda row: (row.item_id, row.round))
    return [
        {name: value for name, value in asdict(row).items() if name not in (*OF_THE_TIME, "request_id")}
        for row in rows
    ]


@pytest.mark.parametrize("first", ["local", "ray"])
def test_either_goes_on_with_the_others_run(
    first: str, engine: RayEngine, server: ScriptedServer, job: Job, run: Run
) -> None:
    """A run that was given up at the first failure, then the rest by the other engine."""
    both: list[Engine] = [LocalEngine(), engine]
    begins, goes_on = both if first == "local" else reversed(both)
    begun = begins.run(job, run, options(server, run, max_failures=0, rate=40.0), watch)
    assert "--max-failures" in begun.stopped
    assert begun.progress.done > 0
    ended = goes_on.run(job, run, options(server, run), watch)
    assert (ended.progress.done, ended.progress.failed, ended.stopped) == (local.ITEMS, 1, "")
    assert ended.progress.here == local.ITEMS - begun.progress.done
    mixed = said(run)
    for path in run.index.glob("*.parquet"):
        path.unlink()
    LocalEngine().run(job, run, options(server, run), watch)
    assert mixed == said(run)
    assert not list(run.folder.glob("ray-*"))


def test_those_that_failed_are_asked_again_and_counted(
    engine: RayEngine, server: ScriptedServer, job: Job, run: Run
) -> None:
    LocalEngine().run(job, run, options(server, run), watch)
    again = engine.run(job, run, options(server, run, retry_failed=True, max_failures=0), watch)
    assert (again.progress.here, again.progress.done, again.progress.failed) == (1, local.ITEMS, 1)
    assert "--max-failures" in again.stopped
    assert len(found(run)) == local.ITEMS * 2


def test_what_an_actor_kept_of_its_block_before_it_was_lost_is_not_asked_again(
    server: ScriptedServer, job: Job, run: Run
) -> None:
    def asked(began: datetime, block: pa.Table) -> int:
        """Items, by an actor that is made anew."""
        before = len(server.asked)
        actor = Annotator(run, run.index, options(server, run), job.manifest, began)
        assert actor(block)["items"].to_pylist() == [block.num_rows]
        actor.close()
        return sum(each.index == 0 for each in server.asked[before:])

    began = datetime.now(UTC)
    block = pq.read_table(job.manifest)
    run.index.mkdir(parents=True)
    assert asked(began, block[:20]) == 20
    for path in run.index.glob("*.parquet"):  # merged meanwhile
        path.rename(path.with_name(path.name.replace("part", "merged")))
    assert asked(began, block) == local.ITEMS - 20
    assert len(found(run)) == local.ITEMS * 2
    assert asked(datetime.now(UTC), block[:1]) == 1  # by a later start, as one that failed before is


def test_an_actor_whose_disk_is_full_ends(
    server: ScriptedServer, job: Job, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch)
    run.index.mkdir(parents=True)
    actor = Annotator(run, run.index, options(server, run), job.manifest, datetime.now(UTC))
    with pytest.raises(JobError, match="the disk is full"):
        actor(pq.read_table(job.manifest))
    actor.close()


def test_an_actor_on_a_node_without_the_jobs_folder_makes_none(
    server: ScriptedServer, job: Job, run: Run, tmp_path: Path
) -> None:
    there = Run(tmp_path / "job-there", run.identity)
    actor = Annotator(there, there.index, options(server, run), there.folder / "left", datetime.now(UTC))
    with pytest.raises(JobError, match="at the same path on each node"):
        actor(pq.read_table(job.manifest))
    actor.close()
    assert not there.folder.exists()


def test_a_reader_on_a_node_without_the_jobs_folder_is_told_as_that(
    engine: RayEngine, server: ScriptedServer, job: Job, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Left, "write", lambda *_: local.ITEMS)
    with pytest.raises(Stopped, match="at the same path on each node"):
        engine.run(job, run, options(server, run), watch)


def test_another_model_is_refused_by_its_name(
    engine: RayEngine, server: ScriptedServer, job: Job, run: Run
) -> None:
    other = job.take_up(replace(run.identity, model_digest="cd" * 32), new=True)
    assert other.identity.model_digest != DESCRIPTION.model_digest
    with pytest.raises(OtherRun, match="--new-run"):
        engine.run(job, other, options(server, other), watch)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "ray://127.0.0.1:10001"])
def test_a_wrong_address_is_refused(address: str, server: ScriptedServer, job: Job, run: Run) -> None:
    with pytest.raises(AnnotateError, match="--ray-address: must be HOST:PORT"):
        RayEngine(address).run(job, run, options(server, run), watch)
    assert not list(run.folder.glob("ray-*"))


def test_a_cluster_that_does_not_start_is_told_with_its_reason(
    server: ScriptedServer, job: Job, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray  # noqa: PLC0415  # a second, of this file's tests alone

    def late(*_: object, **__: object) -> None:
        raise TimeoutError("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(AnnotateError, match=r"Ray did not start .*timed out during startup\.$"):
        RayEngine().run(job, run, options(server, run), watch)


def below(process: "subprocess.Popen[str]") -> dict[int, str]:
    """Processes that it began, and those that they began: commands by number."""
    children: dict[int, list[int]] = {}
    commands = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # gone
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, left = {}, [process.pid]
    while left:
        new = children.get(left.pop(), [])
        found |= {number: commands[number] for number in new}
        left += new
    return found


def until(nothing: Callable[[], object], words: str) -> None:
    """Waits until a call yields nothing."""
    deadline = time.monotonic() + SECONDS
    while left := nothing():
        assert time.monotonic() < deadline, f"{words}: {left}"
        time.sleep(0.1)


@pytest.mark.parametrize(("ended_by", "own"), [(signal.SIGKILL, True), (signal.SIGTERM, False)])
def test_a_run_that_ends_leaves_no_process_and_goes_on(
    ended_by: signal.Signals, *, own: bool, cluster: Cluster, server: ScriptedServer, job: Job, run: Run
) -> None:
    command = [sys.executable, "-m", "mediround", "annotate", "run", "--job", job.folder.name, "--engine", "ray"]
    command += ["--server", server.address, "--rate", "8", *(() if own else ("--ray-address", cluster.address))]
    process = subprocess.Popen(command, cwd=job.folder.parent, stderr=subprocess.PIPE, text=True)
    until(lambda: process.poll() is None and not found(run), "the run keeps nothing")
    assert process.poll() is None, process.communicate()
    began = below(process if own else cluster.process)
    assert any("Annotator" in each for each in began.values())
    # Two agents of a cluster that is killed end by themselves, a minute later.
    began = {number: each for number, each in began.items() if "Agent" not in each}
    process.send_signal(ended_by)
    process.communicate(timeout=SECONDS)
    assert process.returncode == (130 if ended_by == signal.SIGTERM else -signal.SIGKILL)
    if own:
        until(lambda: [each for number, each in began.items() if Path(f"/proc/{number}").exists()], "are left")
    else:
        until(lambda: [each for each in below(cluster.process).values() if "Annotator" in each], "are left")
    assert 0 < len({row.item_id for row in found(run)}) < local.ITEMS
    LocalEngine().run(job, run, options(server, run), watch)
    assert len({(row.item_id, row.round) for row in found(run)}) == len(found(run)) == local.ITEMS * 2
