"""Namespaces of their own for a whole cluster: its network, mounts and processes end with its first process.

Pods, bridges, firewall rules and mounts of the cluster exist only in there, so nothing of it can outlive a test run,
whatever ends the run. What namespaces do not hold, control groups and a scratch folder, is removed from outside;
leftovers of a run that was killed from outside are removed by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

SCRATCH = "NVDRA_CLUSTER_SCRATCH"
"""Names the scratch folder to what runs inside."""
NODE_ADDRESS = "10.90.0.1"
SERVICES = "10.96.0.0/16"
_CGROUPS = Path("/sys/fs/cgroup")
# Sockets of the kubelet and of plugins lie below: a Unix socket's path has at most 107 bytes, so this one is short.
_PARENT = Path("/tmp")
_PREFIX = "nvc-"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new scratch folder, removed at the end together with its control groups."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PARENT))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            _remove(folder)


def run(command: Sequence[str], folder: Path) -> int:
    """The exit status of `command`, run with namespaces of its own and `folder` as scratch."""
    # --pdeathsig and --kill-child: however this process ends, the namespaces and all in them end too.
    wrapped = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    wrapped += ["--mount-proc", "--propagation", "private", "--", sys.executable, "-m", __name__, *command]
    with subprocess.Popen(wrapped, env={**os.environ, SCRATCH: str(folder)}) as outer:

        def end(number: int, frame: FrameType | None) -> None:
            outer.kill()

        _tell_pid(outer.pid, folder)
        with _handled({signal.SIGTERM: end, signal.SIGHUP: end, signal.SIGINT: _leave_to_others}):
            return outer.wait()


def _tell_pid(outer: int, folder: Path) -> None:
    # From inside nobody can see under which process id the first process is known outside, and nsenter wants that one.
    children = Path(f"/proc/{outer}/task/{outer}/children")
    for _ in range(100):
        pids = children.read_text().split() if children.exists() else []
        if pids:
            (folder / "pid").write_text(pids[0])
            return
        time.sleep(0.05)


def inside() -> Path:
    """The scratch folder of the namespaces this process is in. Raises RuntimeError if it is in none."""
    folder = os.environ.get(SCRATCH)
    if not folder:
        raise RuntimeError("the cluster runs in namespaces of its own: start it with `python -m tests.cluster`")
    return Path(folder)


@contextlib.contextmanager
def _handled(handlers: dict[signal.Signals, object]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_to_others(number: int, frame: FrameType | None) -> None:
    """Ctrl-C reaches every process of the terminal: the tests clean up, who waits for them goes on waiting."""


def cgroup_name(folder: Path) -> str:
    """The control group below which all of a cluster's pods live."""
    return f"nvdra-{folder.name.removeprefix(_PREFIX)}"


def cgroup_roots(name: str) -> list[Path]:
    """Where the control group `name` lies: once on a unified hierarchy, else in every controller's."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS / name]
    # A controller may be linked under a second name (cpuacct -> cpu,cpuacct).
    return sorted({hierarchy.resolve() / name for hierarchy in _CGROUPS.iterdir() if hierarchy.is_dir()})


def make_cgroups(name: str) -> None:
    """The control group exists, with every controller that the machine has."""
    unified = _CGROUPS / "cgroup.subtree_control"
    if unified.exists():
        for controller in (_CGROUPS / "cgroup.controllers").read_text().split():
            # A controller that cannot be handed down is one that the kubelet has to do without.
            with contextlib.suppress(OSError):
                unified.write_text(f"+{controller}")
    for root in cgroup_roots(name):
        root.mkdir(exist_ok=True)


def _remove(folder: Path) -> None:
    for root in cgroup_roots(cgroup_name(folder)):
        for path, _, _ in os.walk(root, topdown=False):
            # A group whose last process is still being taken apart stays; the next run's sweep finds it.
            with contextlib.suppress(OSError):
                os.rmdir(path)
    shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    for folder in _PARENT.glob(f"{_PREFIX}*"):
        held: IO[str] | None = None
        with contextlib.suppress(OSError):
            held = (folder / "lock").open()
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
        if held:
            held.close()


def _furnish() -> None:
    """Inside: loopback, an address for the node, and private copies of the folders that hold machine-wide state."""
    for command in (
        "mount --make-rshared /",
        "mount -t tmpfs -o mode=755 tmpfs /run",
        "mkdir /run/upper /run/work",
        # Some paths below /var/lib and /var/log are fixed in the kubelet: what it writes there must not stay.
        "mount -t overlay -o lowerdir=/var/lib,upperdir=/run/upper,workdir=/run/work overlay /var/lib",
        "mount -t tmpfs -o mode=755 tmpfs /var/log",
        "ip link set lo up",
        "ip link add node0 type bridge",
        f"ip address add {NODE_ADDRESS}/24 dev node0",
        "ip link set node0 up",
        # The API server calls webhooks by the address of their Service, which kube-proxy changes on its way out.
        f"ip route add {SERVICES} dev node0 src {NODE_ADDRESS}",
        "sysctl -qw net.ipv4.ip_forward=1",
    ):
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"Error: preparing the cluster's namespaces: {command}: {done.stderr.strip()}")


def _first_process(command: Sequence[str]) -> int:
    """The exit status of `command`; meanwhile every orphan of the namespace is reaped, as its first process must."""
    _furnish()
    with _handled({signal.SIGINT: _leave_to_others}):
        child = subprocess.Popen(command)
        while True:
            pid, status = os.wait()
            if pid == child.pid:
                return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(_first_process(sys.argv[1:]))
