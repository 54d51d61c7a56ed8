"""gpu-kubelet-plugin as a process of its own, by its command line, on a mock node, between API server and kubelet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from nvdra_mock_nvml import lay_out

from nvdra import cdi
from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.host import is_temporary
from nvdra.ports import Resource
from nvdra.testing.api_server import ApiServer, kubeconfig
from nvdra.testing.kube import FakeKube
from nvdra.testing.kubelet import ClaimAnswer, DraClient
from tests.folders import contents
from tests.waiting import until as until

DRIVER, POOL = "gpu.nvidia.com", "node-a"
SLICES = Resource("resource.k8s.io", "v1", "resourceslices", namespaced=False)
NODES = Resource("", "v1", "nodes", namespaced=False)
CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)
PROGRAM = str(Path(sys.executable).with_name("gpu-kubelet-plugin"))
TIMEOUT_S = 60.0


class PluginNode:
    """A node's folder with everything in it. The API server is of this process: `kube` is at hand."""

    driver = DRIVER
    program = PROGRAM
    own_flags: ClassVar[Mapping[str, str]] = {"image-name": "image"}

    def __init__(self, folder: Path, portrait: str = "h100x8", **layout: Any) -> None:
        self.folder = folder
        self.root = lay_out(folder / "root", portrait, device_files="regular", **layout)
        self.cdi = folder / "cdi"
        self.plugin_dir = folder / "plugins" / self.driver
        self.checkpoint_path = self.plugin_dir / "checkpoint.json"
        self.registry = folder / "registry"
        self.log_path = folder / "log"
        self.kube = FakeKube()
        self.server: ApiServer
        self.process: asyncio.subprocess.Process | None = None
        self._client: DraClient | None = None
        self._names = 0
        self.metrics_port = 0
        self.registry.mkdir()
        self.plugin_dir.parent.mkdir()
        self.log_path.touch()

    # ── the process ────────────────────────────────────────────────────────────────────────────────────────────

    async def launch(self, *prefix: str, **flags: str) -> asyncio.subprocess.Process:
        """Start the program, by way of the command `prefix`; it may not come up."""
        given = {
            "node-name": POOL,
            **self.own_flags,
            "kubeconfig": str(self.folder / "kubeconfig"),
            "nvidia-driver-root": "/run/nvidia/driver",
            "container-driver-root": str(self.root.root),
            "cdi-root": str(self.cdi),
            "nvidia-cdi-hook-path": "/usr/bin/nvidia-cdi-hook",
            "kubelet-registrar-directory-path": str(self.registry),
            "kubelet-plugins-directory-path": str(self.plugin_dir.parent),
            "v": "6",
            **{name.replace("_", "-"): value for name, value in flags.items()},
        }
        environment = {**os.environ, "NVDRA_SYSFS": str(self.root.sysfs), "NVDRA_PROCFS": str(self.root.procfs)}
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *prefix,
                self.program,
                *(f"--{name}={value}" for name, value in given.items()),
                env=environment,
                stdout=log,
                stderr=log,
            )
        return self.process

    async def start(self, *prefix: str, published: bool = True, **flags: str) -> None:
        """Start the program and wait until it answers kubelet, and has `published` slices."""
        (self.plugin_dir / "dra.sock").unlink(missing_ok=True)
        process = await self.launch(*prefix, **flags)
        await until(
            lambda: process.returncode is not None or (self.plugin_dir / "dra.sock").exists(), "the plugin's socket"
        )
        assert process.returncode is None, self.log
        assert await self.client.prepare([]) == {}
        if published:
            try:
                await until(lambda: self.kube.objects("resourceslices"), "slices")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.log[-4000:]}") from None

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the program and wait for its end; its exit status."""
        if self._client is not None:
            await self._client.close()
            self._client = None
        if self.process is None:
            return 0
        process, self.process = self.process, None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            return await asyncio.wait_for(process.wait(), TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"the program did not end on {number.name}\n{self.log}") from None

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    @property
    def client(self) -> DraClient:
        if self._client is None:
            self._client = DraClient(str(self.plugin_dir / "dra.sock"))
        return self._client

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @asynccontextmanager
    async def traced(self, *options: str, thread: int | None = None) -> AsyncIterator[Path]:
        """strace on the running program, or one thread of it; what it saw is in the file once the context ends."""
        trace = self.folder / "trace"
        tracer = await asyncio.create_subprocess_exec(
            "strace",
            *(["-f"] if thread is None else []),
            "-y",
            "-o",
            str(trace),
            *options,
            "-p",
            str(thread or self.pid),
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert tracer.stderr is not None
        try:
            told = await asyncio.wait_for(tracer.stderr.readline(), TIMEOUT_S)
            assert b"attached" in told, told
            # It says so after the first thread; the others follow before the program can be waited for.
            if thread is None:
                await until(lambda: self._tracers() == {tracer.pid}, "strace to be attached to every thread")
            yield trace
        finally:
            with contextlib.suppress(ProcessLookupError):
                tracer.send_signal(signal.SIGINT)
            await tracer.wait()

    def _tracers(self) -> set[int]:
        found = set()
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found.add(int(task.joinpath("status").read_text().partition("TracerPid:")[2].split()[0]))
        return found

    # ── claims, as scheduler and users make them ───────────────────────────────────────────────────────────────

    async def claim(self, *devices: str | Mapping[str, Any], name: str = "", parameters: Any = None) -> ClaimRef:
        """A claim, allocated if devices are given. parameters: of one opaque config, as JSON text or a value."""
        self._names += 1
        name = name or f"claim-{self._names}"
        body = {"metadata": {"name": name, "namespace": "ns"}, "spec": {"devices": {}}}
        made = json.loads(await self.kube.create(CLAIMS, json.dumps(body).encode(), "ns"))
        ref = ClaimRef("ns", name, made["metadata"]["uid"])
        if devices:
            await self.allocate(ref, *devices, parameters=parameters)
        return ref

    async def allocate(self, ref: ClaimRef, *devices: str | Mapping[str, Any], parameters: Any = None) -> None:
        results = [
            {
                "request": f"r{index}",
                "driver": DRIVER,
                "pool": POOL,
                **({"device": device} if isinstance(device, str) else device),
            }
            for index, device in enumerate(devices)
        ]
        text = parameters if isinstance(parameters, str) else json.dumps(parameters)
        config = f'[{{"source":"FromClaim","opaque":{{"driver":"{DRIVER}","parameters":{text}}}}}]'
        more = "" if parameters is None else f',"config":{config}'
        status = f'{{"allocation":{{"devices":{{"results":{json.dumps(results)}{more}}}}}}}' if devices else "{}"
        claim = json.loads(await self.kube.get(CLAIMS, ref.name, ref.namespace))
        claim["status"] = "STATUS"
        body = json.dumps(claim).replace('"STATUS"', status)
        await self.kube.update(CLAIMS, ref.name, body.encode(), ref.namespace, subresource="status")

    async def delete(self, ref: ClaimRef) -> None:
        await self.kube.delete(CLAIMS, ref.name, ref.namespace)

    async def wipe_slices(self) -> None:
        """As a kubelet that starts."""
        for stored in self.kube.objects("resourceslices"):
            await self.kube.delete(SLICES, stored["metadata"]["name"])

    # ── kubelet ────────────────────────────────────────────────────────────────────────────────────────────────

    async def prepare(self, *refs: ClaimRef) -> dict[str, ClaimAnswer]:
        return await self.client.prepare(refs)

    async def prepared(self, *refs: ClaimRef) -> list[str]:
        """Prepare claims that must succeed; the devices told."""
        told = await self.prepare(*refs)
        errors = [told[ref.uid].error for ref in refs]
        assert not any(errors), errors
        return [device.device for ref in refs for device in told[ref.uid].devices]

    async def refused(self, ref: ClaimRef) -> str:
        """Prepare a claim that must not succeed; the error without its claim's prefix."""
        told = (await self.prepare(ref))[ref.uid]
        assert told.error
        assert told.devices == ()
        return told.error.removeprefix(f"error preparing devices for claim {ref}: ")

    async def released(self, *refs: ClaimRef) -> None:
        """Unprepare claims, with success."""
        assert await self.client.unprepare(refs) == dict.fromkeys((ref.uid for ref in refs), "")

    # ── the disk ───────────────────────────────────────────────────────────────────────────────────────────────

    def checkpoint(self) -> Checkpoint:
        return decode_checkpoint(self.checkpoint_path.read_bytes())

    def cdi_path(self, ref: ClaimRef) -> Path:
        return self.cdi / cdi.GPU_CLAIMS.file_name(ref.uid)

    def files(self) -> dict[str, bytes]:
        """Content of the checkpoint, the CDI files and what lies beside them, without locks and temporary files."""
        return {
            f"{folder.name}/{name}": content
            for folder in (self.plugin_dir, self.cdi)
            for name, content in contents(folder).items()
            if not name.endswith(".lock") and not is_temporary(name)
        }

    def leftovers(self) -> list[str]:
        """Names of temporary files: one that is being written, or one that a killed writer left."""
        return [name for folder in (self.plugin_dir, self.cdi) for name in os.listdir(folder) if is_temporary(name)]

    async def settled(self, wanted: dict[str, bytes]) -> None:
        """Return once the files are as wanted and no temporary file is left.

        The program sweeps soon after its start what a killed one left.
        """
        try:
            await until(lambda: self.files() == wanted and not self.leftovers())
        except AssertionError:
            now = (self.files(), self.leftovers())
            assert now == (wanted, []), f"found {now}, wanted {wanted}"


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name, as sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="n-", dir="/tmp") as folder:
        yield Path(folder)


@asynccontextmanager
async def plugin_node(
    portrait: str = "h100x8", *, token: str = "", kube: FakeKube | None = None, **layout: Any
) -> AsyncIterator[PluginNode]:
    """A node whose API server is served, the program not yet started; nothing of it runs afterwards."""
    with short_folder() as folder:
        node = await asyncio.to_thread(PluginNode, folder, portrait, **layout)
        node.kube = kube or node.kube
        node.server = server = ApiServer(node.kube, token=token)
        await node.kube.create(NODES, json.dumps({"metadata": {"name": POOL}}).encode())
        async with server.serving() as url:
            (folder / "kubeconfig").write_text(kubeconfig(url, token))
            try:
                yield node
            finally:
                with contextlib.suppress(AssertionError):
                    await node.stop(signal.SIGKILL)


def lines(trace: Path, calls: Sequence[str]) -> list[str]:
    """The lines of a trace that are these system calls, without their thread."""
    pattern = re.compile(rf"^\d+ +((?:{'|'.join(calls)})\(.*)$", re.MULTILINE)
    return pattern.findall(trace.read_text())
