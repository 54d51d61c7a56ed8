"""Who has a GPU open: containers and pods from cgroups, blind spots, a real process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nvdra.host import CgroupOwner, Node, cgroup_owner, find_holders, host_proc
from nvdra.ports import Device
from nvdra.testing.host import FakeHost

POD = "4c9f0f4e-6a0a-4b4e-9d0a-0b2f4b7a1c11"
SLICE = POD.replace("-", "_")
ID, NODE_ID = "ab12" * 16, "cd34" * 16
GPUS: dict[str, Device] = {"gpu-0": (195, 0), "gpu-1": (195, 1)}
FULL: Device = (1, 7)  # /dev/full, which hardly any program opens


@pytest.mark.parametrize(
    ("line", "owner"),
    [
        (f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice/"
         f"cri-containerd-{ID}.scope", 1),
        (f"0::/kubepods.slice/kubepods-pod{SLICE}.slice/crio-{ID}.scope/container", 1),
        (f"0::/kubepods.slice/kubepods-pod{SLICE}.slice/docker-{ID}.scope", 1),
        (f"0::/kubepods/besteffort/pod{POD}/{ID}", 1),
        (f"0::/../../kubepods-besteffort-pod{SLICE}.slice/cri-containerd-{ID}.scope/init", 1),
        (f"0::/system.slice/containerd.service/kubepods-burstable-pod{SLICE}.slice:cri-containerd:{ID}", 1),
        (f"0::/docker/{NODE_ID}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SLICE}.slice/"
         f"cri-containerd-{ID}.scope", 1),
        (f"0::/kubepods/pod{POD}/{ID}/docker/{NODE_ID}", 1),
        (f"12:cpuset:/\n7:devices:/kubepods/burstable/pod{POD}/{ID}\n1:name=systemd:/\n0::/", 1),
        (f"0::/../cri-containerd-{ID}.scope", CgroupOwner(ID)),
        (f"4:memory:/docker/{ID}", CgroupOwner(ID)),
        (f"0::/machine.slice/libpod-{ID}.scope", CgroupOwner(ID)),
        (f"0::/kubepods/pod{POD}", CgroupOwner("", POD)),
        (f"0::/kubepods/burstable/pod{'0f' * 16}/{ID}", CgroupOwner(ID, "0f" * 16)),
        ("0::/system.slice/nvidia-persistenced.service", CgroupOwner()),
        ("0::/user.slice/podcast.scope", CgroupOwner()),
        ("", CgroupOwner()),
        ("\x00:", CgroupOwner()),
    ],
)  # fmt: skip
def test_a_cgroup_names_container_and_pod(line: str, owner: CgroupOwner | int) -> None:
    assert cgroup_owner(line) == (CgroupOwner(ID, POD) if owner == 1 else owner)


async def test_holders_are_named_by_gpu_and_process(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.put_device("/dev/nvidia0", 195, 0)
    host.put_device("/anywhere/else", 195, 1)
    host.write("/proc/cpuinfo")
    host.link("/proc/1/ns/pid", "pid:[4026531836]")
    host.write("/proc/90/comm", "dcgm\n")
    host.link("/proc/90/fd/0", "/dev/nvidia0")
    host.link("/proc/90/fd/1", "/anywhere/else")
    host.write("/proc/700/comm", "python3\n")
    host.write("/proc/700/cgroup", f"0::/kubepods/pod{POD}/{ID}\n")
    host.link("/proc/700/fd/3", "/dev/nvidia0")
    host.link("/proc/700/fd/4", "/dev/nvidia0")
    host.link("/proc/700/fd/5", "/gone")
    found = await find_holders(host, GPUS)
    assert found.processes == 3
    assert found.blind_spots == ()
    assert [(each.gpu, str(each)) for each in found.holders] == [
        ("gpu-0", "process 90 (dcgm)"),
        ("gpu-0", f"process 700 (python3) in container {ID[:12]}"),
        ("gpu-1", "process 90 (dcgm)"),
    ]
    assert found.of("gpu-0")[1].owner == CgroupOwner(ID, POD)


async def test_another_pid_namespace_is_a_blind_spot(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.write("/proc/1/comm", "plugin\n")
    host.link("/proc/1/ns/pid", "pid:[4026532001]")
    (spot,) = (await find_holders(host, GPUS)).blind_spots
    assert "without hostPID" in spot


async def test_the_proc_of_the_host_is_preferred(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    assert host_proc(host, ["/host-root", "/"]) == "/proc"
    host.write("/driver-root/proc/1/comm")
    assert host_proc(host, ["/host-root", "/driver-root", "/"]) == "/driver-root/proc"


def test_a_real_process_is_found_by_the_number_of_its_device(tmp_path: Path) -> None:
    try:  # another path than the one under which the device is known
        os.mknod(tmp_path / "gpu", 0o600 | 0o020000, os.makedev(*FULL))
        opened = os.open(tmp_path / "gpu", os.O_WRONLY)
    except PermissionError:
        opened = os.open("/dev/full", os.O_WRONLY)
    host = Node()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[opened])
    os.close(opened)
    try:
        found = asyncio.run(find_holders(host, {"gpu-0": FULL, "gpu-1": (195, 250)}))
        assert child.pid in {each.pid for each in found.of("gpu-0")}
        (holder,) = (each for each in found.holders if each.pid == child.pid)
        assert holder.command == Path(f"/proc/{child.pid}/comm").read_text().strip()
        assert not found.of("gpu-1")
    finally:
        child.communicate(b"\n", timeout=30)
    assert child.pid not in {each.pid for each in asyncio.run(find_holders(host, {"gpu-0": FULL})).holders}
    host.close()


def test_other_users_processes_are_counted_as_unreadable() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become somebody else")
    code = (
        "import asyncio; from nvdra.host import Node, find_holders;"
        "print(asyncio.run(find_holders(Node(), {'gpu-0': (195, 0)})).blind_spots)"
    )
    argv = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert "cannot be read: look as root, with the capability SYS_PTRACE" in done.stdout


async def test_a_missing_proc_is_an_error(tmp_path: Path) -> None:
    for host in (Node(), FakeHost(tmp_path)):
        with pytest.raises(FileNotFoundError, match="/none"):
            await find_holders(host, GPUS, proc=str(tmp_path / "none"))
        host.close()
