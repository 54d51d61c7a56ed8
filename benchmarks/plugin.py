"""The plugins under measurement: started here on nodes of mock GPUs, or found running by their socket and pid."""

from __future__ import annotations

import asyncio
import compileall
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nvdra_mock_nvml import Root, lay_out

import nvdra
from benchmarks.api import DRIVER, Api
from benchmarks.caller import Caller
from nvdra.testing.kubelet import Kubelet

OURS = Path(sys.executable).with_name("gpu-kubelet-plugin")
VERBOSITY = 4  # the chart's default
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Subject:
    """A plugin, as far as measuring goes.

    pool      its node's name
    devices   what it published
    root      its driver root, if it was started here
    """

    name: str
    pid: int
    socket: str
    pool: str
    devices: list[str]
    root: Root | None = None
    caller: Caller = field(init=False)

    def __post_init__(self) -> None:
        self.caller = Caller(self.socket)

    def cpu_s(self) -> float:
        """Processor time used so far, its ended children's too (the kernel counts it in steps of 10 ms)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return sum(map(int, fields[11:15])) / _TICKS_A_SECOND

    def rss_mib(self) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise ProcessLookupError(self.pid)


@dataclass(frozen=True, slots=True)
class Program:
    """What can be started as a gpu-kubelet-plugin.

    arguments   beyond those that both drivers need
    gpus        how many its node has
    """

    name: str
    path: Path
    arguments: tuple[str, ...] = ()
    gpus: int = 8


def ours(*arguments: str, gpus: int = 8) -> Program:
    """With bytecode, as an installed package has it, whatever the environment says of writing it."""
    compileall.compile_dir(Path(nvdra.__file__).parent, quiet=1)
    return Program("ours", OURS, arguments, gpus)


def other(name: str, path: Path) -> Program:
    """Another driver; its own limit on API calls is lifted, or a queue would be all there is to see."""
    return Program(name, path, ("--kube-api-qps=1000", "--kube-api-burst=1000"))


@dataclass(slots=True)
class Started:
    """A program started on a node of its own, and when."""

    process: subprocess.Popen[bytes]
    began: float
    folder: Path
    node: str
    root: Root

    @property
    def socket(self) -> Path:
        return self.folder / "plugins" / DRIVER / "dra.sock"


def memory_folder(otherwise: Path) -> Path:
    """A fresh folder for CDI files where /var/run lies, too: in memory. Else below `otherwise`."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="bench-cdi-", dir=memory if os.access(memory, os.W_OK) else otherwise))


@asynccontextmanager
async def started(program: Program, api: Api, folder: Path, node: str) -> AsyncIterator[Started]:
    """The program on a fresh node with H100, while the context lasts."""
    root = lay_out(folder / "root", "h100x8", gpus=range(program.gpus))
    for name in ("plugins", "registry"):
        (folder / name).mkdir()
    cdi_root = memory_folder(folder)
    await api.node(node)
    command = [str(program.path), f"--node-name={node}", "--image-name=none", f"--kubeconfig={api.kubeconfig}"]
    command += ["--nvidia-driver-root=/run/nvidia/driver", f"--container-driver-root={root.root}"]
    command += [f"--cdi-root={cdi_root}", "--nvidia-cdi-hook-path=/usr/bin/nvidia-cdi-hook"]
    command += [f"--kubelet-registrar-directory-path={folder / 'registry'}", f"-v={VERBOSITY}"]
    command += [f"--kubelet-plugins-directory-path={folder / 'plugins'}", *program.arguments]
    environment = os.environ | {"NVDRA_SYSFS": str(root.sysfs), "NVDRA_PROCFS": str(root.procfs)}
    with (folder / "log").open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield Started(process, began, folder, node, root)
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(cdi_root, ignore_errors=True)
        await api.forget(node)


@asynccontextmanager
async def serving(program: Program, api: Api, folder: Path, node: str) -> AsyncIterator[Subject]:
    """The program once it has published its devices and serves."""
    folder.mkdir()
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(started(program, api, folder, node))
        try:
            devices = await api.devices(node)
        except TimeoutError:
            tail = "\n".join((folder / "log").read_text(errors="replace").splitlines()[-10:])
            raise SystemExit(
                f"{program.path} published no devices within a minute; the end of its log:\n{tail}"
            ) from None
        kubelet = await stack.enter_async_context(Kubelet(str(folder / "registry")))
        await kubelet.registered(DRIVER)
        subject = Subject(program.name, running.process.pid, str(running.socket), node, devices, running.root)
        yield subject
