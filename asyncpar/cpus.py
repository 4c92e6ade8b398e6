"""How many cores this process may use: its affinity mask, cut by the CPU quota of its cgroup.

A container limited to two cores on a machine of 64 sees 64 in `os.cpu_count()`. A pool of 64 workers would then be
throttled by the kernel for most of every 100 ms period.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator


def usable_cpus() -> int:
    """Return how many cores can be kept busy at once: at least 1.

    A quota of 1.5 cores counts as 2: with one worker a third of what was granted would stay unused.
    """
    cores = allowed_cores()
    quota = cgroup_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def allowed_cores() -> int:
    """Return how many cores the scheduler may run this process on (`taskset`, cpusets), at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def cgroup_quota(root: str = "/") -> float | None:
    """Return the CPU quota of this process's control group in cores, or None where there is none.

    Versions 1 and 2 are read, and every group above this one, since the tightest limit is the one that holds.

    Args:
        root: The directory that holds `proc` and what is mounted; anything but "/" is for tests.
    """
    quotas = (_group_quota(directory) for directory in _group_directories(root))
    return min((quota for quota in quotas if quota is not None), default=None)


def _group_directories(root: str) -> Iterator[str]:
    """Yield the directory of each cgroup this process is in, then those above it, up to the mount point."""
    groups = dict(_own_groups(_read(root, "proc/self/cgroup")))
    for version, mount_root, mount_point in _cpu_mounts(_read(root, "proc/self/mountinfo")):
        below = _path_below(mount_root, groups.get(version, ""))
        while below:
            yield os.path.join(root, mount_point.lstrip("/"), below)
            below = os.path.dirname(below)
        yield os.path.join(root, mount_point.lstrip("/"))


def _own_groups(text: str) -> Iterator[tuple[int, str]]:
    """Yield (cgroup version, path) from `/proc/self/cgroup`: `0::/a` is version 2, `4:cpu,cpuacct:/a` version 1."""
    for line in text.splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _cpu_mounts(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (cgroup version, root of the mount, mount point) from `/proc/self/mountinfo` (proc(5))."""
    for line in text.splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        mount_root, mount_point = (field.replace("\\040", " ") for field in mount.split(" ")[3:5])
        if kind == "cgroup2":
            yield 2, mount_root, mount_point
        elif kind == "cgroup" and "cpu" in options.split(","):
            yield 1, mount_root, mount_point


def _path_below(mount_root: str, path: str) -> str:
    """Return `path` relative to what is mounted, or "" where it lies outside (as some containers show it)."""
    prefix = mount_root.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) and ".." not in path else ""


def _group_quota(directory: str) -> float | None:
    limit = _read(directory, "cpu.max").split()
    if not limit:
        limit = [
            *_read(directory, "cpu.cfs_quota_us").split(),
            *_read(directory, "cpu.cfs_period_us").split(),
        ]
    if len(limit) != 2 or limit[0] in ("max", "-1"):
        return None
    return int(limit[0]) / int(limit[1])


def _read(*path: str) -> str:
    try:
        with open(os.path.join(*path), encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
