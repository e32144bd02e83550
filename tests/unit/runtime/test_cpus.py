"""CPUs that may be used: affinity and control groups, of both versions, nested, fractional and without a limit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from serving.llm.settings import OnnxSettings
from serving.runtime.cpus import usable_cpus
from serving.settings import EngineSettings

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" + "".join(
    f"{number} 31 0:29 / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n"
    for number, name in enumerate(["memory", "cpu,cpuacct", "cpuset"], start=32)
)
CONTAINER = "33 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def machine(root: Path, mountinfo: str, cgroup: str, files: Mapping[str, str]) -> Path:
    written = {"proc/self/mountinfo": mountinfo, "proc/self/cgroup": cgroup} | files
    for name, text in written.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v1(group: str, quota: int, period: int = 100_000) -> dict[str, str]:
    directory = f"/sys/fs/cgroup/cpu,cpuacct{group}"
    return {f"{directory}/cpu.cfs_quota_us": f"{quota}\n", f"{directory}/cpu.cfs_period_us": f"{period}\n"}


def v2(group: str, text: str) -> dict[str, str]:
    return {f"/sys/fs/cgroup{group}/cpu.max": text + "\n"}


CASES = {
    "v2, a container's own namespace": (V2, "0::/\n", v2("", "200000 100000"), 2),
    "v2, no limit": (V2, "0::/\n", v2("", "max 100000"), 64),
    "v2, fractional": (V2, "0::/\n", v2("", "250000 100000"), 2),
    "v2, less than one": (V2, "0::/\n", v2("", "50000 100000"), 1),
    "v2, another period": (V2, "0::/\n", v2("", "30000 10000"), 3),
    "v2, the outer group is smaller": (V2, "0::/a/b\n", v2("/a", "200000 100000") | v2("/a/b", "max 100000"), 2),
    "v2, the inner group is smaller": (
        V2,
        "0::/a/b\n",
        v2("/a", "800000 100000") | v2("/a/b", "100000 100000"),
        1,
    ),
    "v2, a path of another namespace": (V2, "0::/../../x\n", v2("", "200000 100000"), 2),
    "v1": (V1, "5:memory:/\n4:cpu,cpuacct:/a\n", v1("", -1) | v1("/a", 300_000), 3),
    "v1, no limit": (V1, "4:cpu,cpuacct:/\n", v1("", -1), 64),
    "v1, nested": (V1, "4:cpu,cpuacct:/a/b\n", v1("/a", 150_000) | v1("/a/b", 400_000), 1),
    "v1, a container": (V1[:0] + CONTAINER, "4:cpu,cpuacct:/docker/abc\n", v1("", 400_000), 4),
    "both, v2 without controllers": (V1 + V2, "4:cpu,cpuacct:/\n0::/\n", v1("", 200_000), 2),
    "no control groups": ("", "", {}, 64),
    "garbage": ("x - y\n\n", "nonsense", {}, 64),
}


@pytest.mark.parametrize("name", CASES)
def test_a_quota(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mountinfo, cgroup, files, expected = CASES[name]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert usable_cpus(machine(tmp_path, mountinfo, cgroup, files)) == expected


def test_affinity_is_the_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cpus(machine(tmp_path, V2, "0::/\n", v2("", "800000 100000"))) == 1


def test_both_servers_take_as_many_threads_as_this_process_may_use() -> None:
    assert EngineSettings().threads == OnnxSettings().threads == usable_cpus()


def test_one_cpu_by_affinity() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from serving.settings import EngineSettings; print(EngineSettings().threads)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.fixture
def real_group() -> Path:
    """A control group of this machine, which only root may make, and only where it is mounted for writing."""
    parent = next(
        (path for path in map(Path, ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup")) if (path / "cgroup.procs").exists()),
        None,
    )
    if parent is None:
        pytest.skip("no control groups here")
    group = parent / f"mediround-test-{os.getpid()}"
    try:
        group.mkdir()
        v2_file, v1_file = group / "cpu.max", group / "cpu.cfs_quota_us"
        (v1_file if v1_file.exists() else v2_file).write_text("100000" if v1_file.exists() else "100000 100000")
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    return group


def test_a_real_quota_of_one_cpu(real_group: Path) -> None:
    code = (
        f"import os, pathlib; pathlib.Path({str(real_group / 'cgroup.procs')!r}).write_text(str(os.getpid()));"
        "from serving.runtime.cpus import usable_cpus; print(usable_cpus())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    real_group.rmdir()
    assert done.stdout == "1\n"
