"""A node of two mock GPUs that are partitioned per claim: what its program changes on them are effects, too."""

from __future__ import annotations

import asyncio
import inspect
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from nvdra_mock_nvml import MigDevice, Root, lay_out

from nvdra import claims
from nvdra.gpu import ComputeInstanceScan, GpuInstanceScan, MigSpec, from_scan
from nvdra.gpu.extents import DRIVER
from nvdra.node.clock import LoopClock
from nvdra.node.gpu.mig_upkeep import MigUpkeep
from nvdra.node.locks import FOLDER
from nvdra.nvml import Nvml, NvmlHung, NvmlInUse
from nvdra.ports import Clock
from nvdra.testing.host import FakeHost, Killed
from tests.crash.story import Node
from tests.folders import contents
from tests.unit.node.world import VERSION, C, P

T = TypeVar("T")

# Profiles by id: an eighth of the memory, half of it.
SMALL, HALF = 19, 9

# Portraits whose MIG mode does not change without a reset: it is on from the beginning and stays.
STAYS = ("a100x8",)


class CountedNvml:
    """NVML that tells which calls are under way, as it makes them on threads of its own."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self.calls: set[asyncio.Future[None]] = set()

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._nvml, name)
        return partial(self._counted, member) if inspect.iscoroutinefunction(member) else member

    async def _counted(self, call: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        under_way: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.calls.add(under_way)
        try:
            return await call(*args, **options)
        finally:
            self.calls.remove(under_way)
            under_way.set_result(None)


class MortalNvml:
    """NVML as one program has it: changes are effects of its host, and once that is dead nothing is heard any more.

    destroyed   GPU and GPU instance id of each GPU instance it began to destroy
    """

    def __init__(self, nvml: CountedNvml, host: FakeHost, destroyed: set[tuple[str, int]]) -> None:
        self._nvml = nvml
        self._host = host
        self._destroyed = destroyed

    async def mig(self, uuid: str) -> tuple[bool, tuple[GpuInstanceScan, ...]]:
        return await self._heard(lambda: self._nvml.mig(uuid))

    async def processes(self, uuid: str, gi_id: int) -> tuple[int, ...]:
        return await self._heard(lambda: self._nvml.processes(uuid, gi_id))

    async def set_mig_mode(self, uuid: str, on: bool) -> None:
        await self._host.perform("set MIG mode", uuid, lambda: self._nvml.set_mig_mode(uuid, on))

    async def create_gpu_instance(self, uuid: str, profile_id: int, start: int, size: int) -> int:
        return await self._host.perform(
            "create GPU instance", uuid, lambda: self._nvml.create_gpu_instance(uuid, profile_id, start, size)
        )

    async def create_compute_instance(self, uuid: str, gi_id: int, profiles: Sequence[int]) -> ComputeInstanceScan:
        return await self._host.perform(
            "create compute instance", uuid, lambda: self._nvml.create_compute_instance(uuid, gi_id, profiles)
        )

    async def destroy_compute_instance(self, uuid: str, gi_id: int, ci_id: int) -> None:
        self._destroyed.add((uuid, gi_id))
        await self._host.perform(
            "destroy compute instance", uuid, lambda: self._nvml.destroy_compute_instance(uuid, gi_id, ci_id)
        )

    async def destroy_gpu_instance(self, uuid: str, gi_id: int) -> None:
        self._destroyed.add((uuid, gi_id))
        await self._host.perform("destroy GPU instance", uuid, lambda: self._nvml.destroy_gpu_instance(uuid, gi_id))

    async def _heard(self, call: Callable[[], Awaitable[T]]) -> T:
        if not self._host.is_dead:
            result = await call()
            if not self._host.is_dead:
                return result
        raise Killed


@dataclass(frozen=True)
class End:
    """What a story comes to.

    gpus   by minor: MIG mode, GPU instances with their compute instances
    """

    files: dict[str, bytes]
    gpus: dict[int, tuple[tuple[bool, bool], dict[int, tuple[int, int]], tuple[MigDevice, ...]]]
    lock_files: dict[str, bytes]


@dataclass(frozen=True)
class Place:
    """A folder with two mock GPUs, for one node after the other.

    nvml     for one program after the other: its threads are not made anew for each
    state    of the GPUs, as each node finds them
    theirs   a partition of the first GPU that somebody else made
    """

    folder: Path
    root: Root
    nvml: CountedNvml
    state: bytes | None = None
    theirs: MigDevice | None = None


_STATE, _FAULTS = "var/lib/nvdra-mock/state.json", "etc/nvdra-mock-faults.json"


def lay(folder: Path, portrait: str, patience: Clock | None = None) -> Place:
    """GPUs as they come.

    patience   tells when a call hangs; else the loop's time: no call does that takes long on a busy machine
    """
    # Their /proc and /sys are the folder's own, as the driver is that nodes have.
    root = lay_out(
        folder / "mock",
        portrait,
        driver_version=VERSION,
        gpus=(0, 1),
        device_files="regular",
        stand_in_dir=folder,
    )
    library = str(root.library.resolve())
    return Place(folder, root, CountedNvml(Nvml(lambda: library, patience or LoopClock())))


def lay_partitioned(folder: Path, portrait: str) -> Place:
    """GPUs of which somebody partitioned the first; MIG mode is on where it cannot be changed when it is needed."""
    place = lay(folder, portrait)
    root = place.root
    for minor in (0, 1) if portrait in STAYS else (0,):
        root.set_mig_mode(minor, True)
    theirs = root.create_mig(0, HALF, 4)
    return replace(place, state=(root.root / _STATE).read_bytes(), theirs=theirs)


class MigNode(Node):
    """A node of two GPUs, and of nothing else that was in its folder before."""

    def __init__(self, place: Place) -> None:
        for left in (P, C):
            shutil.rmtree(place.folder / left.strip("/"), ignore_errors=True)
        for left in (_STATE, _FAULTS):
            (place.root.root / left).unlink(missing_ok=True)
        if place.state is not None:
            (place.root.root / _STATE).write_bytes(place.state)
        super().__init__(place.folder)
        self.root = place.root
        self.theirs = place.theirs
        self.gates = "DynamicMIG=true"
        self.nvml = place.nvml
        self.destroy_unmanaged = False
        self._destroyed: set[tuple[str, int]] = set()
        self._kept: list[MigDevice] = []

    # ── the program ────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        self.gpus = MortalNvml(self.nvml, self.host, self._destroyed)
        super().start()
        self.upkeep = MigUpkeep(
            cast(Nvml, self.nvml),
            self.clock,
            self.context,
            self.mig,
            lambda: self.inventory,
            is_checkpoint_lost=lambda: self.file.is_quarantined,
            destroy_unmanaged=self.destroy_unmanaged,
        )

    def calls(self) -> set[asyncio.Future[Any]]:
        return super().calls() | self.nvml.calls

    async def boot(self) -> None:
        await super().boot()
        await self.locks.make_folder()
        await self.look()

    async def restart(self) -> None:
        await super().restart()
        await self.look()

    async def bury(self) -> None:
        # What was under way on a GPU when the program died comes to its end first, as in a kernel.
        with suppress(NvmlHung):
            while self.nvml.is_open:
                with suppress(NvmlInUse):
                    await self.nvml.close()
                await asyncio.sleep(0)
        await super().bury()

    async def wakes(self) -> None:
        await self.warm()
        await self.timely(self.upkeep.clean_up())
        await self.timely(self.sweep.settle())
        await self.timely(self.sweep.half_prepared())
        await self.timely(self.sweep.leftovers())

    async def look(self) -> None:
        """The node is scanned."""
        self.inventory = from_scan(await self.nvml.scan(profiles=True), {}, dynamic_mig=True)

    async def _rescan(self) -> None:
        await self.look()
        await super()._rescan()

    # ── GPUs, as administrators see them ───────────────────────────────────────────────────────────────────────

    @property
    def toggles(self) -> bool:
        """Whether MIG mode changes without a reset."""
        return self.root.portrait.name not in STAYS

    def partition(self, gpu: int, profile_id: int, start: int) -> str:
        """The name it is announced by."""
        (name,) = (
            device.name
            for device in self.inventory.devices.values()
            if isinstance(device, MigSpec)
            and (device.parent.minor, device.profile.profile_id, device.start) == (gpu, profile_id, start)
        )
        return name

    def address(self, gpu: int) -> str:
        """Its PCI address, which its lock is named by."""
        (address,) = (address for address, device in self.inventory.gpus.items() if device.minor == gpu)
        return address

    def keep(self, device: MigDevice) -> None:
        """It must stand to the end of the story."""
        self._kept.append(device)

    # ── what must hold ─────────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> None:
        super().check()
        self._check_partitions()

    def _check_partitions(self) -> None:
        """Completed claims have their partitions, and what must stand stood all the time."""
        assert self._prepared(self.completed().values()) <= {device.uuid for device in self.root.mig_devices()}
        assert {device.uuid for device in self._kept} <= {device.uuid for device in self.root.mig_devices()}
        kept = {(self.root.gpu(device.minor).uuid, device.gi) for device in self._kept}
        assert not kept & self._destroyed

    def check_settled(self) -> None:
        """Nothing is half done: what stands is completed claims', or was kept; MIG mode is on for that alone."""
        self._check_partitions()
        standing = {device.uuid for device in self.root.mig_devices()}
        assert standing == self._prepared(self.completed().values()) | {device.uuid for device in self._kept}
        for minor in (0, 1):
            instances = self.root.gpu_instances(minor)
            assert instances.keys() == {device.gi for device in self.root.mig_devices(minor)}
            if self.toggles:
                assert self.root.mig_mode(minor) == (bool(instances), bool(instances))
        assert set(self.lock_files().values()) <= {b""}

    @staticmethod
    def _prepared(entries: Any) -> set[str]:
        """UUIDs of the MIG devices that these entries use."""
        return {
            device.uuid
            for entry in entries
            for device in claims.answers(entry)
            if "-mig-" in device.device and device.device in claims.exclusive_names(entry, DRIVER)
        }

    def lock_files(self) -> dict[str, bytes]:
        return contents(self.folder / P.strip("/") / FOLDER)

    def end(self) -> End:
        gpus = {
            minor: (
                self.root.mig_mode(minor),
                self.root.gpu_instances(minor),
                tuple(self.root.mig_devices(minor)),
            )
            for minor in (0, 1)
        }
        return End(self.files(), gpus, {name: content for name, content in self.lock_files().items() if content})
