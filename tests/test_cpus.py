from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncpar import cpus

MOUNTS = {
    2: "41 31 0:38 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
    1: "32 31 0:29 {root} /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n",
}

MakeTree = Callable[..., str]


@pytest.fixture
def make_tree(tmp_path: Path) -> MakeTree:
    """A file system with one cgroup mount and the quotas given as {directory: content of its limit file(s)}."""

    def make(cgroup: str, mountinfo: str, files: dict[str, str]) -> str:
        for name, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo, **files}.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return str(tmp_path)

    return make


def test_version_2(make_tree: MakeTree) -> None:
    """The quota of version 2 is read from cpu.max."""
    files = {"sys/fs/cgroup/app/cpu.max": "150000 100000\n"}
    assert cpus.cgroup_quota(make_tree("0::/app\n", MOUNTS[2].format(root="/"), files)) == 1.5


def test_version_2_unlimited(make_tree: MakeTree) -> None:
    """`max` is no quota."""
    files = {"sys/fs/cgroup/app/cpu.max": "max 100000\n"}
    assert cpus.cgroup_quota(make_tree("0::/app\n", MOUNTS[2].format(root="/"), files)) is None


def test_the_tightest_group_above_holds(make_tree: MakeTree) -> None:
    """A parent group's smaller quota limits its children."""
    files = {
        "sys/fs/cgroup/cpu.max": "max 100000",
        "sys/fs/cgroup/slice/cpu.max": "200000 100000",
        "sys/fs/cgroup/slice/app/cpu.max": "400000 100000",
    }
    assert cpus.cgroup_quota(make_tree("0::/slice/app\n", MOUNTS[2].format(root="/"), files)) == 2


def test_version_1(make_tree: MakeTree) -> None:
    """The quota of version 1 is quota over period, beside other controllers and an idle version 2 mount."""
    files = {
        "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000\n",
    }
    cgroup = "9:name=systemd:/\n3:cpuset:/other\n4:cpu,cpuacct:/app\n0::/\n"
    other = "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    assert cpus.cgroup_quota(make_tree(cgroup, other + MOUNTS[1].format(root="/") + unified, files)) == 0.5


def test_version_1_unlimited(make_tree: MakeTree) -> None:
    """-1 is no quota."""
    files = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    assert cpus.cgroup_quota(make_tree("4:cpu,cpuacct:/\n", MOUNTS[1].format(root="/"), files)) is None


@pytest.mark.parametrize("cgroup", ["0::/docker/abc\n", "0::/\n", "0::/../../elsewhere\n"])
def test_inside_a_container(make_tree: MakeTree, cgroup: str) -> None:
    """Where only the container's own group is mounted, its limit is found, whatever path the kernel shows."""
    files = {"sys/fs/cgroup/cpu.max": "300000 100000"}
    assert cpus.cgroup_quota(make_tree(cgroup, MOUNTS[2].format(root="/docker/abc"), files)) == 3


def test_a_mount_point_with_a_space(make_tree: MakeTree) -> None:
    """The kernel writes a space in a mount point as \\040."""
    mount = r"41 31 0:38 / /odd\040place rw - cgroup2 cgroup2 rw" + "\n"
    files = {"odd place/cpu.max": "100000 100000"}
    assert cpus.cgroup_quota(make_tree("0::/\n", mount, files)) == 1


def test_no_cgroups(tmp_path: Path) -> None:
    """Without /proc there is no quota."""
    assert cpus.cgroup_quota(str(tmp_path)) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (1.5, 2), (0.2, 1), (64.0, 8)])
def test_usable_cpus(monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int) -> None:
    """The quota is rounded up, and never adds cores."""
    monkeypatch.setattr(cpus, "allowed_cores", lambda: 8)
    monkeypatch.setattr(cpus, "cgroup_quota", lambda: quota)
    assert cpus.usable_cpus() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_affinity_is_respected() -> None:
    """A process pinned to one core may use one."""
    code = "import os; from asyncpar.cpus import usable_cpus; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(usable_cpus())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
