"""A node in a folder with its API server in memory: the parts of the node room put together as a program does it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nvdra_mock_nvml.elf import shared_object
from prometheus_client import CollectorRegistry

from nvdra import cdi
from nvdra.api import ClaimRef
from nvdra.api import gates as feature_gates
from nvdra.checkpoint import Checkpoint
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.gpu import Inventory, Partitions
from nvdra.gpu.driver import DEVICE_TYPES
from nvdra.gpu.sharing import UNSHARED, Sharing
from nvdra.host import DriverRoot, find_nvidia_smi, install_hook
from nvdra.kube import ResourceApi
from nvdra.node.checkpoint_writer import LOCK_TIMEOUT_S, Change
from nvdra.node.claim_service import Prepared, Unprepared
from nvdra.node.gpu.actors.fabric import FabricActor
from nvdra.node.gpu.actors.mig import MigActor, Partitioner
from nvdra.node.gpu.actors.mps import MpsActor
from nvdra.node.gpu.actors.timeslice import TimeSliceActor
from nvdra.node.gpu.actors.vfio import VfioActor
from nvdra.node.gpu.edits_provider import GpuEditsProvider
from nvdra.node.gpu.parts import gpu_context
from nvdra.node.parts import NodePaths, claim_parts
from nvdra.ports import Resource
from nvdra.telemetry.metrics import DriverMetrics
from nvdra.testing.clock import VirtualClock
from nvdra.testing.host import Effect, FakeHost
from nvdra.testing.kube import FakeKube
from tests.executors import InlineExecutor
from tests.folders import contents
from tests.unit.gpu.scans import inventory

T = TypeVar("T")

DRIVER, POOL = "gpu.nvidia.com", "node-a"
CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)
P, C = "/plugins/gpu.nvidia.com", "/cdi"
CHECKPOINT = f"{P}/checkpoint.json"
MARK = f"{P}/checkpoint.json.quarantined"
VERSION = "550.163.01"
LIBRARIES = "/driver/usr/lib64"
ROOT = DriverRoot("/driver", "/driver")
GPUS = 4
BUNDLED = "/image/nvidia-cdi-hook"
"""Where a test puts the CDI hook of the plugin's image, if it wants one."""
# Turns of the event loop in which a whole prepare or unprepare is done that waits for nothing.
_TURNS = 1000


def lay_driver(host: FakeHost, gpus: int = GPUS) -> None:
    """The least that counts as a driver."""
    for name in ("libcuda.so", "libnvidia-ml.so"):
        host.write(f"{LIBRARIES}/{name}.{VERSION}", shared_object(f"{name}.1"))
    for node, major, minor in (("nvidiactl", 195, 255), ("nvidia-uvm", 510, 0)):
        host.put_device(f"/driver/dev/{node}", major, minor)
    for minor in range(gpus):
        host.put_device(f"/driver/dev/nvidia{minor}", 195, minor)


def cdi_path(ref: ClaimRef) -> str:
    return f"{C}/{cdi.GPU_CLAIMS.file_name(ref.uid)}"


class NoPartitions:
    """Of GPUs without MIG nothing may ever be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"NVML was asked: {name}")


class World:
    """The node and the program on it. `restart` is a fresh program on the same disk, with the same API server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = VirtualClock()
        self.kube = self.make_kube()
        self.host = FakeHost(folder)
        self.inventory: Inventory = inventory(GPUS)
        self.gates = ""
        self.lock_timeout_s = LOCK_TIMEOUT_S
        self.sharing: Sharing = UNSHARED
        self.gpus: Partitioner = NoPartitions()
        self.rescans = 0
        self.on_rescan: Callable[[], None] = lambda: None
        self.checkpoints: list[Checkpoint] = []
        self.metrics: DriverMetrics
        lay_driver(self.host)
        for name in (P, C):
            (folder / name.strip("/")).mkdir(parents=True)

    def make_kube(self) -> FakeKube:
        return FakeKube(clock=self.clock)

    def make_mps(self) -> MpsActor | None:
        """What runs MPS daemons, of the program that starts now."""
        return None

    def make_fabric(self) -> FabricActor | None:
        """What activates fabric partitions, of the program that starts now."""
        return None

    def seen(self) -> Inventory:
        """The inventory as the program has it."""
        return self.inventory

    def make_vfio(self) -> VfioActor | None:
        """What binds GPUs for virtual machines, of the program that starts now."""
        return None

    # ── the program ────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        asyncio.get_running_loop().set_default_executor(InlineExecutor())
        self.api = ResourceApi(self.kube)
        self.registry = CollectorRegistry()
        self.metrics = DriverMetrics(self.registry, driver=DRIVER, node=POOL, device_types=DEVICE_TYPES)
        restore = partial(install_hook, self.host, P, bundled=BUNDLED) if self.host.exists(BUNDLED) else None
        hook = f"{P}/nvidia-cdi-hook" if restore else "/usr/bin/nvidia-cdi-hook"
        self.edits_provider = GpuEditsProvider(
            self.host, ROOT, hook_path=hook, host_root="/run/driver", restore_hook=restore
        )
        self.mig = MigActor(self.gpus, self.note)
        self.time_slices = TimeSliceActor(lambda: find_nvidia_smi(self.host, ROOT), lambda: self.inventory)
        self.context, self.file = gpu_context(
            feature_gates.parse(self.gates),
            POOL,
            NodePaths(P, C),
            self.host,
            self.edits_provider,
            self.mig,
            self.time_slices,
            self.seen,
            clock=self.clock,
            lock_timeout_s=self.lock_timeout_s,
            mps=self.make_mps(),
            fabric=self.make_fabric(),
            vfio=self.make_vfio(),
            sharing=self.sharing,
            rescan=lambda: self._rescan(),
            on_checkpoint=self.checkpoints.append,
        )
        self.checkpoint_writer, self.locks, self.runner = (
            self.context.checkpoint_writer,
            self.context.locks,
            self.context.runner,
        )
        parts = claim_parts(self.context, self.file, self.host, self.clock, self.api, self.metrics)
        self.service, self.sweep = parts.service, parts.sweep
        self.checkpoint_writer.start()

    async def warm(self) -> None:
        """As the program does in the background after each scan: the checkpoint read, driver files looked up."""
        await self.checkpoint_writer.submit(Change)
        await self.edits_provider.refresh(self.inventory.gpus.values())

    async def stop(self) -> None:
        await self.checkpoint_writer.stop()
        self.host.close()

    async def restart(self) -> None:
        await self.stop()
        self.host = self.host.revive()
        self.start()

    def note(self, address: str, partitions: Partitions) -> None:
        """How a GPU is partitioned now, as discovery is told."""
        self.inventory = replace(self.inventory, partitions={**self.inventory.partitions, address: partitions})

    async def _rescan(self) -> None:
        self.rescans += 1
        self.on_rescan()
        self.edits_provider.forget()  # as the program does after each scan

    # ── claims, as scheduler and users make them ───────────────────────────────────────────────────────────────

    async def claim(self, name: str, *devices: str | Mapping[str, Any], config: Any = None) -> ClaimRef:
        """A claim, allocated if devices are given."""
        body = {"metadata": {"name": name, "namespace": "ns"}, "spec": {"devices": {}}}
        made = json.loads(await self.kube.create(CLAIMS, json.dumps(body).encode(), "ns"))
        ref = ClaimRef("ns", name, made["metadata"]["uid"])
        if devices:
            await self.allocate(ref, *devices, config=config)
        return ref

    async def allocate(self, ref: ClaimRef, *devices: str | Mapping[str, Any], config: Any = None) -> None:
        results = [
            {
                "request": f"r{index}",
                "driver": DRIVER,
                "pool": POOL,
                **({"device": device} if isinstance(device, str) else device),
            }
            for index, device in enumerate(devices)
        ]
        allocation: dict[str, Any] = {"devices": {"results": results}}
        if config is not None:
            allocation["devices"]["config"] = config
        await self.set_status(ref, {"allocation": allocation} if devices else {})

    async def deallocate(self, ref: ClaimRef) -> None:
        await self.set_status(ref, {})

    async def delete(self, ref: ClaimRef) -> None:
        await self.kube.delete(CLAIMS, ref.name, ref.namespace)

    async def set_status(self, ref: ClaimRef, status: dict[str, Any]) -> None:
        claim = json.loads(await self.kube.get(CLAIMS, ref.name, ref.namespace))
        claim["status"] = status
        await self.kube.update(CLAIMS, ref.name, json.dumps(claim).encode(), ref.namespace, subresource="status")
        self.kube.calls.clear()

    # ── kubelet ────────────────────────────────────────────────────────────────────────────────────────────────

    async def prepare(self, *refs: ClaimRef) -> Mapping[str, Prepared]:
        return await self.timely(self.service.prepare(refs))

    async def unprepare(self, *refs: ClaimRef) -> Mapping[str, Unprepared]:
        return await self.timely(self.service.unprepare(refs))

    async def prepared(self, *refs: ClaimRef) -> list[str]:
        """Prepare claims that must succeed; the devices answered."""
        answers = await self.prepare(*refs)
        devices = []
        for ref in refs:
            answer = answers[ref.uid]
            assert isinstance(answer, tuple), answer
            devices += [device.device for device in answer]
        return devices

    async def refused(self, ref: ClaimRef) -> str:
        """Prepare a claim that must not succeed; the error."""
        answer = (await self.prepare(ref))[ref.uid]
        assert not isinstance(answer, tuple), answer
        return answer.error

    async def released(self, *refs: ClaimRef) -> None:
        """Unprepare claims, with success."""
        assert await self.unprepare(*refs) == dict.fromkeys(ref.uid for ref in refs)

    async def timely(self, work: Awaitable[T]) -> T:
        """What comes of the work. Virtual time passes to the next sleeper whenever all rests, and only then.

        Whatever the work waits for must be on this loop, among `calls`, or on the clock.
        """
        task = asyncio.ensure_future(work)
        while not await self._rests(task):
            await self.clock.advance(self._until_next_wake())
        return task.result()

    async def _rests(self, task: asyncio.Future[Any]) -> bool:
        """Whether the task is done, once everything has run that can run without time passing."""
        turns = 0
        while turns < _TURNS and not task.done():
            if self.host.is_dead:
                await asyncio.wait([task])  # nothing of a dead program ends: until it is cancelled
            elif calls := self.calls():
                await asyncio.wait({task, *calls}, return_when=asyncio.FIRST_COMPLETED)
                turns = 0
            await asyncio.sleep(0)
            turns += 1
        return task.done()

    def _until_next_wake(self) -> float:
        seconds = self.clock.next_wake_s
        assert seconds is not None, "the work waits for something that never comes"
        return seconds

    def calls(self) -> set[asyncio.Future[Any]]:
        """What is under way on other threads, and ends without virtual time passing."""
        return {*self.host.waits}

    async def dies(self, work: asyncio.Task[Any]) -> bool:
        """Whether the program died of what was told to `kill_after` before the work was done; the work is lost then."""
        death = asyncio.ensure_future(self.host.dies())
        await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if work.done() and not self.host.is_dead:
            return False
        # Let everything run into its end; nothing of it touches the disk any more.
        await self.clock.settle()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return True

    # ── the disk ───────────────────────────────────────────────────────────────────────────────────────────────

    def files(self) -> dict[str, bytes]:
        """Everything in the plugin's and the CDI folder but the lock files."""
        return {
            f"{folder}/{name}": content
            for folder in (P, C)
            for name, content in contents(self.folder / folder.strip("/")).items()
            if not name.endswith(".lock")
        }

    def checkpoint(self) -> Checkpoint:
        return decode_checkpoint(self.host.read(CHECKPOINT))

    def state(self, ref: ClaimRef) -> str:
        """The claim's state in the checkpoint on disk; "" without an entry."""
        entry = self.checkpoint().entries.get(ref.uid)
        return "" if entry is None else entry.state

    def has_file(self, ref: ClaimRef) -> bool:
        return (self.folder / cdi_path(ref).strip("/")).exists()

    def effects(self, kind: str, path: str = "") -> list[str]:
        """Paths of the effects of this kind since the last call of `since_now`."""
        return [each.path for each in self.recent_effects if each.kind == kind and each.path.startswith(path)]

    @property
    def recent_effects(self) -> list[Effect]:
        """All effects since the last call of `since_now`."""
        return self.host.effects[self._mark :]

    _mark = 0

    def since_now(self) -> None:
        self._mark = len(self.host.effects)
