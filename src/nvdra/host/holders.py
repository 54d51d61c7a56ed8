"""Finds the processes that have a GPU open, with their containers and pods.

A process holds a GPU if one of its descriptors is open on a device of the GPU's number, whatever the path. A mapping
that outlives its descriptor is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nvdra.ports import Device, Host

# The inode of the PID namespace in which the kernel starts. Source: Linux, include/linux/proc_ns.h.
_FIRST_NAMESPACE = "pid:[4026531836]"

# kubelet writes a pod's UID with "-" (cgroupfs driver) or "_" (systemd driver); that of a static pod is a bare hash.
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=[./:]|$)")
# The id alone, or behind the runtime's name: cri-containerd-, crio-, docker-, libpod-.
_CONTAINER = re.compile(r"(?:^|[/:-])([0-9a-f]{64})(?=[./:]|$)")


@dataclass(frozen=True, slots=True)
class CgroupOwner:
    """The container and pod of a process; "" where its cgroup names none."""

    container_id: str = ""
    pod_uid: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a GPU open.

    gpu       the key under which the caller named the GPU
    pid       as numbered in the proc file system that was read
    command   the kernel's name of the program, "" if the process has ended
    """

    gpu: str
    pid: int
    command: str
    owner: CgroupOwner = CgroupOwner()

    def __str__(self) -> str:
        """`process 4711 (python3) in container 0123456789ab`."""
        name = f" ({self.command})" if self.command else ""
        container = f" in container {self.owner.container_id[:12]}" if self.owner.container_id else ""
        return f"process {self.pid}{name}{container}"


@dataclass(frozen=True, slots=True)
class Holders:
    """The holders of some GPUs, by GPU and process id.

    processes     how many processes were looked at
    blind_spots   what could not be seen, as clauses for people
    """

    holders: tuple[Holder, ...]
    processes: int
    blind_spots: tuple[str, ...] = ()

    def of(self, gpu: str) -> tuple[Holder, ...]:
        return tuple(holder for holder in self.holders if holder.gpu == gpu)


async def find_holders(host: Host, gpus: Mapping[str, Device], *, proc: str = "/proc") -> Holders:
    """The processes that have one of these GPUs open, found in one pass over the proc file system.

    gpus   the number of each GPU's device node
    proc   where the proc file system is mounted; another than /proc may show another PID namespace
    Raises OSError if `proc` cannot be listed.
    """
    names = list(gpus)
    scan = await host.device_holders([gpus[name] for name in names], proc=proc)
    found = sorted((names[index], pid) for pid, index in scan.holders)
    owners = {pid: _process(host, proc, pid) for _, pid in found}
    holders = tuple(Holder(name, pid, *owners[pid]) for name, pid in found)
    return Holders(holders, scan.processes, tuple(_blind_spots(host, proc, scan.unreadable)))


def host_proc(host: Host, roots: Iterable[str]) -> str:
    """The proc file system to look for holders in: the first below one of `roots` that shows processes, else /proc.

    A proc file system mounted from the host shows the host's processes, without hostPID too.
    """
    places = (f"{root.rstrip('/')}/proc" for root in roots)
    return next((place for place in places if host.exists(f"{place}/1")), "/proc")


def cgroup_owner(text: str) -> CgroupOwner:
    """The container and pod in the content of a process's cgroup file, of cgroup v1 or v2.

    On a node that is itself a container, the id before the pod is the node's. A container inside a pod's container
    counts as the pod's.
    """
    best = CgroupOwner()
    for line in text.splitlines():
        path = line.split(":", 2)[-1]
        pod = _POD.search(path)
        container = _CONTAINER.search(path, pod.end() if pod else 0)
        owner = CgroupOwner(container[1] if container else "", pod[1].replace("_", "-") if pod else "")
        best = max(best, owner, key=lambda each: (bool(each.pod_uid), bool(each.container_id)))
    return best


def _process(host: Host, proc: str, pid: int) -> tuple[str, CgroupOwner]:
    return _text(host, f"{proc}/{pid}/comm").strip(), cgroup_owner(_text(host, f"{proc}/{pid}/cgroup"))


def _blind_spots(host: Host, proc: str, unreadable: int) -> list[str]:
    spots = []
    if unreadable:
        processes = "1 process" if unreadable == 1 else f"{unreadable} processes"
        spots.append(f"the files of {processes} cannot be read: look as root, with the capability SYS_PTRACE")
    try:
        namespace = host.readlink(f"{proc}/1/ns/pid")
    except OSError:
        namespace = ""
    if namespace != _FIRST_NAMESPACE:
        spots.append(f"{proc} shows one PID namespace only: not those of the host and other pods, without hostPID")
    return spots


def _text(host: Host, path: str) -> str:
    try:
        return host.read(path).decode(errors="replace")
    except OSError:
        return ""
