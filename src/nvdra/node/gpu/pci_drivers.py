"""Kernel drivers of PCI functions, changed by writes to sysfs that the kernel may take any time over."""

from __future__ import annotations

import asyncio

from nvdra.host import DriverRoot
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.ports import Clock, Host

# Time after which a write counts as hung: the claim's answer then says so, and the write is waited for all the same.
WRITE_TIMEOUT_S = 10.0


class PciDrivers:
    """Writes to sysfs, for one step. Every method raises StepFailed.

    resource   whose lock is held as long as a write is under way
    """

    def __init__(self, host: Host, clock: Clock, root: DriverRoot, journal: StepJournal, resource: str) -> None:
        self._host = host
        self._clock = clock
        self._bus = f"{root.sysfs}/bus/pci"
        self._journal = journal
        self._resource = resource

    def has(self, driver: str) -> bool:
        """Whether the kernel has a driver of this name loaded."""
        return self._host.exists(f"{self._bus}/drivers/{driver}")

    async def reserve(self, address: str, driver: str) -> None:
        """Let the kernel bind the function to this driver only; "": to any that fits."""
        await self._write(f"devices/{address}/driver_override", driver or "\n", f"error reserving {address}")

    async def unbind(self, address: str) -> asyncio.Future[None]:
        """Begin to take the function from its driver; return the write, which may be under way past its deadline."""
        path = f"devices/{address}/driver/unbind"
        return await self._begin(path, address, f"error unbinding {address}")

    async def finish(self, writing: asyncio.Future[None], address: str) -> None:
        """Wait for what `unbind` began, however long it takes."""
        await self._done(writing, f"error unbinding {address}")

    async def bind(self, address: str, driver: str) -> None:
        """Give the function to this driver."""
        await self._write(f"drivers/{driver}/bind", address, f"error binding {address} to {driver}")

    async def probe(self, address: str) -> None:
        """Let the kernel choose a driver for the function."""
        await self._write("drivers_probe", address, f"error probing drivers of {address}")

    async def _write(self, path: str, text: str, what: str) -> None:
        await self._done(await self._begin(path, text, what), what)

    async def _begin(self, path: str, text: str, what: str) -> asyncio.Future[None]:
        """The write, done or not after its deadline; then the lock is kept for it and the claim's answer says so."""
        full = f"{self._bus}/{path}"
        writing = asyncio.ensure_future(self._host.write_in_place(full, text.encode()))
        try:
            async with self._clock.deadline(WRITE_TIMEOUT_S):
                await asyncio.shield(writing)
        except TimeoutError:
            self._journal.waits(
                f"{what}: the kernel has not finished a write to {full} within {WRITE_TIMEOUT_S:g} s; a program may "
                "still use the device, `dmesg` on the node tells"
            )
        except OSError:
            pass  # `_done` words it
        finally:
            if not writing.done():
                self._journal.keep(self._resource, writing)
        return writing

    async def _done(self, writing: asyncio.Future[None], what: str) -> None:
        was_late = not writing.done()
        try:
            await asyncio.shield(writing)
        except OSError as error:
            raise StepFailed(f"{what}: {error.filename}: {error.strerror}") from error
        if was_late:
            self._journal.waits("")
