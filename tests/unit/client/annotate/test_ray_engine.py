"""The Ray engine: the same index as the local one's, and either goes on with the other's run.

Of one cluster for all: it takes seconds to start.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest

from mediround.annotate.engines.interface import Engine
from mediround.annotate.engines.local import LocalEngine
from mediround.annotate.engines.ray import RayEngine
from mediround.annotate.errors import OtherRun
from mediround.annotate.job import Job, Run
from mediround.testing import DESCRIPTION, ScriptedServer
from tests.unit.client.annotate import test_local_engine as local

found, options, watch = local.found, local.options, local.watch
job, run, server = local.job, local.run, local.server  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own calls; nothing here can act
OF_THE_TIME = ("finished", "seconds", "seconds_queue", "seconds_encode", "seconds_language", "seconds_decode")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    import ray  # noqa: PLC0415  # a second, of this file's tests alone

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written into the home directory
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=6, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        yield
        ray.shutdown()


def said(run: Run) -> list[dict[str, object]]:
    rows = sorted(found(run), key=lambda row: (row.item_id, row.round))
    return [
        {name: value for name, value in asdict(row).items() if name not in (*OF_THE_TIME, "request_id")}
        for row in rows
    ]


@pytest.mark.parametrize("first", [LocalEngine(), RayEngine()], ids=["local", "ray"])
def test_either_goes_on_with_the_others_run(first: Engine, server: ScriptedServer, job: Job, run: Run) -> None:
    """A run that was given up at the first failure, then the rest by the other engine."""
    second = RayEngine() if isinstance(first, LocalEngine) else LocalEngine()
    begun = first.run(job, run, options(server, run, max_failures=0, rate=20.0), watch)
    assert "--max-failures" in begun.stopped
    assert begun.progress.done > 0
    ended = second.run(job, run, options(server, run), watch)
    assert (ended.progress.done, ended.progress.failed, ended.stopped) == (local.ITEMS, 1, "")
    assert ended.progress.here == local.ITEMS - begun.progress.done
    mixed = said(run)
    for path in run.index.glob("*.parquet"):
        path.unlink()
    LocalEngine().run(job, run, options(server, run), watch)
    assert mixed == said(run)
    assert not list(run.folder.glob("ray-*"))


def test_another_model_is_refused_by_its_name(server: ScriptedServer, job: Job, run: Run) -> None:
    other = job.take_up(replace(run.identity, model_digest="cd" * 32), new=True)
    assert other.identity.model_digest != DESCRIPTION.model_digest
    with pytest.raises(OtherRun, match="--new-run"):
        RayEngine().run(job, other, options(server, other), watch)
