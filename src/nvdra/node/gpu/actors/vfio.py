"""GPUs bound to vfio-pci for virtual machines, with all functions of their slot, and given back to their drivers.

What sysfs says counts. The drivers from before are in the journal: without it (the Go driver writes none) the GPU goes
to the NVIDIA driver, and the kernel chooses for the other functions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from nvdra import telemetry
from nvdra.claims import Facts
from nvdra.gpu import BindVfio
from nvdra.gpu.vfio import is_vfio_driver
from nvdra.host import (
    DriverFileMissing,
    DriverRoot,
    NvidiaSmi,
    NvidiaSmiError,
    Slot,
    SlotFunction,
    device_major,
    look_at_slot,
    nvidia_numbers,
    vfio_numbers,
    vfio_paths,
)
from nvdra.node.gpu.holders import Seen, SharedLook
from nvdra.node.gpu.pci_drivers import PciDrivers
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.nvml import DriverAbsent, DriverChanged, NvmlHung, NvmlInUse
from nvdra.ports import Clock, Host

# How often a device is looked at while a claim waits for it; after a while a claim waits in its pod's restarts only.
LOOK_EVERY_S = 0.25
LOOK_LATER_EVERY_S = 2.0
LOOKS_OFTEN_FOR_S = 60.0
MODPROBE_TIMEOUT_S = 30.0
SETTLE_S = 1.0

_NVIDIA = "nvidia"
_NVIDIA_MAJOR = 195  # fixed in the kernel's list of devices
_PROBE = "?"  # instead of a driver's name: the kernel chooses

T = TypeVar("T")


class ClosedNvml(Protocol):
    """The part of NVML that unbinding needs: nothing of it is open meanwhile."""

    def kept_closed(self) -> AbstractAsyncContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class VfioNode:
    """The node's places.

    host_root   the host's root as this program sees it
    """

    root: DriverRoot
    host_root: str


class VfioActor:
    """Applies and rolls back `BindVfio`.

    look      who holds device nodes
    smi       the driver root's `nvidia-smi`; raises DriverFileMissing
    module_of the vfio module for a function, by PCI address
    changed   called after a GPU got another driver
    """

    def __init__(
        self,
        host: Host,
        clock: Clock,
        node: VfioNode,
        nvml: ClosedNvml,
        look: SharedLook,
        smi: Callable[[], NvidiaSmi],
        module_of: Callable[[str], str],
        changed: Callable[[], object],
    ) -> None:
        self._host = host
        self._clock = clock
        self._node = node
        self._nvml = nvml
        self._look = look
        self._smi = smi
        self._module_of = module_of
        self._changed = changed

    async def apply(self, step: BindVfio, journal: StepJournal) -> Facts:
        """What the container gets, by device name. Raises StepFailed."""
        assert step.bound is not None
        try:
            await self._bind(step, journal)
            _, own = vfio_paths(self._host, self._node.root, step.address)
            if step.bound.uses_iommufd and not own:
                raise StepFailed(f'missing iommufd cdev for GPU "{step.address}"')
        except StepFailed as failed:
            # DROP-IN: the Go driver's words in front.
            text = f'error applying config: error configuring vfio device "{step.device}": {failed}'
            raise StepFailed(text) from failed.__cause__
        return {step.device: step.bound}

    async def roll_back(self, step: BindVfio, journal: StepJournal) -> None:
        """Give the GPU and the other functions back to their drivers from before. Raises StepFailed."""
        if not journal.is_touched:
            return
        slot = look_at_slot(self._host, self._node.root, step.address)
        if slot is None:
            telemetry.warning("A passed-through GPU is gone from the node", device=step.device, address=step.address)
            return
        try:
            await self._give_back(step, slot, journal)
        except StepFailed as failed:
            raise StepFailed(f'error unconfiguring vfio device "{step.device}": {failed}') from failed.__cause__

    # ── binding ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _bind(self, step: BindVfio, journal: StepJournal) -> None:
        slot = look_at_slot(self._host, self._node.root, step.address, self._module_of)
        if slot is None:
            raise StepFailed(f'no GPU found at PCI bus ID "{step.address}"')
        if why := slot.why_not():
            raise StepFailed(why)
        gpu, drivers = slot.gpu, PciDrivers(self._host, self._clock, self._node.root, journal, step.address)
        targets = {each.address: await self._loaded(each.module, drivers) for each in slot.functions}
        if gpu.driver not in ("", _NVIDIA) and not is_vfio_driver(gpu.driver):
            raise StepFailed(
                f'GPU "{step.address}" is bound to "{gpu.driver}" driver, expected "{targets[gpu.address]}" or "nvidia"'
            )
        persistence = await self._persistence(step.address) if gpu.driver == _NVIDIA else None
        journal.touch(_before(slot, persistence))
        moving = [each for each in slot.functions if not is_vfio_driver(each.driver)]
        if not moving:
            return
        if persistence:
            await self._set_persistence(step.address, False)
        if gpu.driver == _NVIDIA:
            await self._once_free(step, journal, _nothing)
        for each in moving:
            await drivers.reserve(each.address, targets[each.address])
        # The GPU last: the kernel unbinds the functions that depend on it by itself.
        for each in reversed(moving):
            await self._unbind(each, drivers, step, journal)
        for each in moving:
            await self._bind_one(each.address, targets[each.address], drivers)
        self._changed()
        telemetry.info(1, "Bound GPU for passthrough", device=step.device, address=step.address, group=slot.group)

    async def _loaded(self, module: str, drivers: PciDrivers) -> str:
        """The name of the module's driver, which is loaded then."""
        name = self._driver_of(module, drivers)
        if not name:
            argv = ["chroot", self._node.host_root, "modprobe", module]
            try:
                finished = await self._host.spawn(argv, timeout_s=MODPROBE_TIMEOUT_S)
            except (OSError, TimeoutError) as error:
                raise StepFailed(f'failed to load module "{module}": {" ".join(argv)}: {error}') from error
            if finished.exit_code:
                said = " ".join((finished.stdout + b"\n" + finished.stderr).decode(errors="replace").split())[:300]
                raise StepFailed(
                    f'failed to load module "{module}": {" ".join(argv)}: exit status {finished.exit_code}: {said}; '
                    "load it at the start of the node (/etc/modules-load.d)"
                )
            name = self._driver_of(module, drivers)
        if not name:
            raise StepFailed(
                f'failed to find driver directory for vfio module "{module}" at '
                f'"{self._node.root.sysfs}/bus/pci/drivers", is the module loaded?'
            )
        return name

    def _driver_of(self, module: str, drivers: PciDrivers) -> str:
        return next((name for name in (module, module.replace("_", "-")) if drivers.has(name)), "")

    async def _unbind(self, each: SlotFunction, drivers: PciDrivers, step: BindVfio, journal: StepJournal) -> None:
        if each.driver != _NVIDIA:
            await self._unbind_one(each.address, drivers)
            return
        # A program that opens the GPU between the look and the unbind would block the write until it closes the GPU.
        writing = await self._once_free(step, journal, lambda: drivers.unbind(each.address))
        await drivers.finish(writing, each.address)
        await self._must_be_unbound(each.address)

    async def _unbind_one(self, address: str, drivers: PciDrivers) -> None:
        if _driver_now(self._host, self._node.root, address):
            try:
                await drivers.finish(await drivers.unbind(address), address)
            except StepFailed:
                # The kernel unbinds a function by itself with the GPU that it depends on.
                if _driver_now(self._host, self._node.root, address):
                    raise
            await self._must_be_unbound(address)

    async def _must_be_unbound(self, address: str) -> None:
        if now := await self._comes_to(address, ""):
            raise StepFailed(f"error unbinding {address}: the kernel accepted it, and it still has {now}")

    async def _comes_to(self, address: str, driver: str) -> str:
        """The driver of a function once it is this one, or after a moment: drivers may probe in the background."""
        began = self._clock.now()
        while (now := _driver_now(self._host, self._node.root, address)) != driver:
            if self._clock.now() - began >= SETTLE_S:
                break
            await self._clock.sleep(SETTLE_S / 50)
        return now

    async def _bind_one(self, address: str, driver: str, drivers: PciDrivers) -> None:
        now = _driver_now(self._host, self._node.root, address)
        if now != driver:
            try:
                await drivers.bind(address, driver)
            except StepFailed:
                # The kernel binds a reserved function by itself where another program loads the driver.
                if _driver_now(self._host, self._node.root, address) != driver:
                    raise
        now = await self._comes_to(address, driver)
        if now != driver:
            raise StepFailed(f"error binding {address} to {driver}: the kernel accepted it, and it has {now or 'none'}")

    # ── giving back ────────────────────────────────────────────────────────────────────────────────────────────

    async def _give_back(self, step: BindVfio, slot: Slot, journal: StepJournal) -> None:
        before = journal.previous
        known: Mapping[str, Any] = before.get("drivers") or {}
        overrides: Mapping[str, Any] = before.get("overrides") or {}
        drivers = PciDrivers(self._host, self._clock, self._node.root, journal, step.address)
        wanted = {each.address: _wanted(each, slot, known) for each in slot.functions}
        moving = [
            each
            for each in slot.functions
            if (is_vfio_driver(each.driver) or not each.driver) and each.driver != wanted[each.address]
        ]
        if moving and not known:
            # What the Go driver restores; written down, so that a crash from here on loses nothing.
            before = {"drivers": wanted, "persistence": True}
            journal.touch(before)
        if any(is_vfio_driver(each.driver) for each in moving):
            await self._wait_until_unused(step, journal)
        for each in slot.functions:
            override = str(overrides.get(each.address, ""))
            if each.override != override and (each in moving or is_vfio_driver(each.override)):
                await drivers.reserve(each.address, override)
        for each in reversed(moving):
            await self._unbind_one(each.address, drivers)
        for each in moving:
            await self._restore_one(each, wanted[each.address], drivers, is_gpu=each is slot.gpu)
        # Also where only this was left to do: the mode goes off before anything is unbound.
        is_nvidias = _driver_now(self._host, self._node.root, step.address) == _NVIDIA
        if is_nvidias and before.get("persistence"):
            await self._restore_persistence(step.address)
        if moving:
            self._changed()
            telemetry.info(1, "Gave passed-through GPU back", device=step.device, address=step.address, drivers=wanted)

    async def _restore_one(self, each: SlotFunction, driver: str, drivers: PciDrivers, *, is_gpu: bool) -> None:
        try:
            if driver == _PROBE:
                await drivers.probe(each.address)
            elif driver and drivers.has(driver):
                await self._bind_one(each.address, driver, drivers)
            elif driver:
                # A driver that is loaded later takes every function without one.
                telemetry.warning("A function has no driver until that is loaded", address=each.address, driver=driver)
        except StepFailed as failed:
            if is_gpu:
                raise
            telemetry.warning(
                "A function of a GPU's slot stays without driver", address=each.address, cause=str(failed)
            )

    # ── who uses the GPU ───────────────────────────────────────────────────────────────────────────────────────

    async def _once_free(self, step: BindVfio, journal: StepJournal, work: Callable[[], Awaitable[T]]) -> T:
        """What the work returns, done at a moment when no process has the GPU open, this one neither."""
        began = self._clock.now()
        while True:
            try:
                async with self._nvml.kept_closed():
                    seen = await self._holders(self._numbers(step.address))
                    if not seen.holders:
                        journal.waits("")
                        return await work()
                    why = str(seen)
            except (NvmlInUse, NvmlHung, DriverAbsent, DriverChanged) as error:
                why = str(error)
            journal.waits(f'waiting for GPU "{step.address}" to be free: {why}')
            await self._pause(began, journal)

    async def _wait_until_unused(self, step: BindVfio, journal: StepJournal) -> None:
        numbers, began = vfio_numbers(self._host, self._node.root, step.address), self._clock.now()
        while (seen := await self._holders(numbers)).holders:
            journal.waits(f'waiting for a virtual machine to close GPU "{step.address}": {seen}')
            await self._pause(began, journal)
        journal.waits("")

    async def _pause(self, began: float, journal: StepJournal) -> None:
        is_new = self._clock.now() - began < LOOKS_OFTEN_FOR_S
        pause = self._look.wait(self._clock, LOOK_EVERY_S if is_new else LOOK_LATER_EVERY_S)
        await journal.wait_for(pause)

    async def _holders(self, numbers: tuple[tuple[int, int], ...]) -> Seen:
        try:
            return await self._look.holders(numbers)
        except OSError as error:
            raise StepFailed(f"processes of the node cannot be looked at: {error}") from error

    def _numbers(self, address: str) -> tuple[tuple[int, int], ...]:
        major = next(
            (
                found
                for name in ("nvidia", "nvidia-frontend")
                if (found := device_major(self._host, self._node.root, name)) is not None
            ),
            _NVIDIA_MAJOR,
        )
        return nvidia_numbers(self._host, self._node.root, address, major)

    # ── persistence mode ───────────────────────────────────────────────────────────────────────────────────────

    async def _persistence(self, address: str) -> bool | None:
        try:
            return await self._smi().read_persistence_mode(address)
        except (NvidiaSmiError, DriverFileMissing) as error:
            telemetry.warning("The persistence mode of a GPU cannot be read", address=address, cause=str(error))
            return None

    async def _set_persistence(self, address: str, on: bool) -> None:
        verb = "enabling" if on else "disabling"
        try:
            await self._smi().set_persistence_mode(address, on, self._node.root)
        except (NvidiaSmiError, DriverFileMissing) as error:
            raise StepFailed(f'error {verb} persistence mode for GPU "{address}": {error}') from error

    async def _restore_persistence(self, address: str) -> None:
        """Turn persistence mode on again; the GPU is given back whether or not that succeeds."""
        try:
            await self._set_persistence(address, True)
        except StepFailed as failed:
            telemetry.warning("Persistence mode stays off", address=address, cause=str(failed))


async def _nothing() -> None:
    pass


def _before(slot: Slot, persistence: bool | None) -> dict[str, Any]:
    """The state that a rollback restores, for the journal."""
    overrides = {each.address: each.override for each in slot.functions if each.override}
    return {
        "drivers": {each.address: each.driver for each in slot.functions},
        **({"overrides": overrides} if overrides else {}),
        **({} if persistence is None else {"persistence": persistence}),
    }


def _wanted(each: SlotFunction, slot: Slot, known: Mapping[str, Any]) -> str:
    """The driver that a function goes back to; "" for none."""
    if each is slot.gpu:
        return str(known.get(each.address) or _NVIDIA)
    return str(known.get(each.address, _PROBE))


def _driver_now(host: Host, root: DriverRoot, address: str) -> str:
    try:
        return host.readlink(f"{root.sysfs}/bus/pci/devices/{address}/driver").rpartition("/")[2]
    except OSError:
        return ""
