"""FakePciKernel: PCI functions and their drivers behind the sysfs of a FakeHost, with refusals and hangs.

PipedPciKernel does the same for programs with processes of their own, through named pipes in the folder.

It reacts to writes as the kernel does, and keeps all of its state in the files: it outlives programs.
Source: Documentation/ABI/testing/sysfs-bus-pci, drivers/base/bus.c and drivers/pci/pci-driver.c of the Linux kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import selectors
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from nvdra.testing.host import FakeHost

_DEVICES, _DRIVERS, _GROUPS = "/sys/bus/pci/devices", "/sys/bus/pci/drivers", "/sys/kernel/iommu_groups"
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
_GPU = (0x030000, 0x030200)
# Classes of the functions that each driver takes by itself; vfio-pci takes none.
_TAKES = {
    "nvidia": _GPU,
    "nouveau": (),
    "snd_hda_intel": (0x040300,),
    "xhci_hcd": (0x0C0330,),
    "mlx5_core": (0x020000,),
    "pcieport": (0x060400,),
    "vfio-pci": (),
}
_MEMORY = (  # of an H100: 16 MiB, 80 GiB in a window of 128 GiB, 32 MiB
    "0x00000a0042000000 0x00000a0042ffffff 0x000000000014220c",
    "0x0000000000000000 0x0000000000000000 0x0000000000000000",
    "0x00000a0000000000 0x00000a1fffffffff 0x000000000014220c",
    "0x0000000000000000 0x0000000000000000 0x0000000000000000",
    "0x00000a0040000000 0x00000a0041ffffff 0x000000000014220c",
)


class FakePciKernel:
    """The kernel of one FakeHost, or of a folder.

    writes     (path, text) of every write, refused ones included
    is_held    whether a program has a function's device node open: taking a driver away then hangs until it is not
    """

    def __init__(
        self, folder: Path, host: FakeHost | None = None, *, drivers: tuple[str, ...] = ("nvidia", "snd_hda_intel")
    ) -> None:
        self._host = host
        self._folder = folder
        self._refused: dict[str, int] = {}
        self._hangs: dict[str, asyncio.Event] = {}
        self.writes: list[tuple[str, str]] = []
        self.is_held: Callable[[str], bool] = lambda _address: False
        if host is not None:
            host.kernel = self
        for name in ("devices", "drivers"):
            self._place(f"/sys/bus/pci/{name}").mkdir(parents=True, exist_ok=True)
        self._entry("/sys/bus/pci/drivers_probe")
        for driver in drivers:
            self.load(driver)

    # ── what a test sets up ────────────────────────────────────────────────────────────────────────────────────

    def load(self, driver: str) -> None:
        """Load a driver; it takes the functions without one that it knows."""
        for name in ("bind", "unbind"):
            self._entry(f"{_DRIVERS}/{driver}/{name}")
        for address in self.addresses():
            if not self.driver(address):
                self._probe(address)

    def add(
        self,
        address: str,
        *,
        kind: int = 0x030200,
        vendor: int = 0x10DE,
        device: int = 0x2330,
        driver: str = "nvidia",
        group: int | None = None,
        minor: int | None = None,
    ) -> None:
        """A function on the bus.

        kind    its class
        minor   of a GPU, for the NVIDIA driver
        """
        folder = f"{_DEVICES}/{address}"
        modalias = f"pci:v{vendor:08X}d{device:08X}sv000010DEsd000016C1bc{kind >> 16:02X}sc{kind >> 8 & 255:02X}i00\n"
        for name, content in {
            "class": f"0x{kind:06x}\n",
            "vendor": f"0x{vendor:04x}\n",
            "device": f"0x{device:04x}\n",
            "numa_node": "0\n",
            "modalias": modalias,
            "resource": "\n".join((*_MEMORY, *["0x0 0x0 0x0"] * 8)) + "\n",
            "driver_override": "(null)\n",
        }.items():
            self._file(f"{folder}/{name}", content)
        if minor is not None:
            self._file(f"/kernel/minors/{address}", str(minor))
        if group is not None:
            self._file(f"{_GROUPS}/{group}/devices/{address}")
            self._link(f"{folder}/iommu_group", f"{_GROUPS}/{group}")
        if driver:
            self._attach(address, driver)

    def give(self, address: str, driver: str) -> None:
        """An administrator gives the function to this driver, reserved for it; "": to none."""
        if self.driver(address):
            self._detach(address)
        self.set(address, "driver_override", f"{driver or '(null)'}\n")
        if driver:
            self._attach(address, driver)

    def lose(self, address: str) -> None:
        """The function is taken off the bus."""
        if self.driver(address):
            self._detach(address)
        shutil.rmtree(self._place(f"{_DEVICES}/{address}"))

    def set(self, address: str, name: str, content: str) -> None:
        """An attribute of a function says this."""
        self._file(f"{_DEVICES}/{address}/{name}", content)

    def refuse(self, path: str, error: int = errno.EBUSY) -> None:
        """Writes to this path, from /sys/bus/pci on, fail from now on: "devices/0000:01:00.0/driver_override"."""
        self._refused[path] = error

    def hang(self, path: str) -> asyncio.Event:
        """The next write to this path hangs until the event is set, and then does its work."""
        event = self._hangs[path] = asyncio.Event()
        return event

    def relent(self) -> None:
        """Refuse nothing any more."""
        self._refused.clear()

    def addresses(self) -> list[str]:
        return sorted(path.name for path in self._place(_DEVICES).iterdir())

    def driver(self, address: str) -> str:
        """The function's driver; "" if it has none."""
        try:
            return os.readlink(self._place(f"{_DEVICES}/{address}") / "driver").rpartition("/")[2]
        except OSError:
            return ""

    def drivers(self) -> dict[str, str]:
        return {address: self.driver(address) for address in self.addresses()}

    def overrides(self) -> dict[str, str]:
        """Functions that are reserved for one driver."""
        found = {address: self._override(address) for address in self.addresses()}
        return {address: override for address, override in found.items() if override}

    # ── writes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def __call__(self, path: str, content: bytes) -> Awaitable[None] | None:
        text, name = content.decode(), path.removeprefix("/sys/bus/pci/")
        self.writes.append((name, text))
        if (error := self._refused.get(name)) is not None:
            raise OSError(error, os.strerror(error), path)
        hang = self._hangs.pop(name, None)
        if hang is None and name.endswith("/driver/unbind") and self.is_held(text):
            hang = asyncio.Event()
        if hang is not None:
            return self._later(hang, name, text, path)
        self._carry_out(name, text, path)
        return None

    async def _later(self, event: asyncio.Event, name: str, text: str, path: str) -> None:
        await event.wait()
        self._carry_out(name, text, path)

    def _carry_out(self, name: str, text: str, path: str) -> None:
        match name.split("/"):
            case ["devices", address, "driver_override"]:
                self._file(f"{_DEVICES}/{address}/driver_override", f"{text.strip() or '(null)'}\n")
            case ["devices", address, "driver", "unbind"] if text == address:
                self._detach(address)
            case ["drivers", driver, "bind"] if self._place(f"{_DEVICES}/{text}").exists():
                if self.driver(text) or not self._fits(text, driver):
                    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), path)
                self._attach(text, driver)
            case ["drivers", driver, "unbind"] if self.driver(text) == driver:
                self._detach(text)
            case ["drivers_probe"] if self._place(f"{_DEVICES}/{text}").exists():
                self._probe(text)
            case _:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), path)

    def _fits(self, address: str, driver: str) -> bool:
        if override := self._override(address):
            return override == driver
        return int(self._read(f"{_DEVICES}/{address}/class"), 16) in _TAKES.get(driver, ())

    def _probe(self, address: str) -> None:
        for driver in sorted(path.name for path in self._place(_DRIVERS).iterdir()):
            if not self.driver(address) and self._fits(address, driver):
                self._attach(address, driver)

    def _attach(self, address: str, driver: str) -> None:
        self._link(f"{_DEVICES}/{address}/driver", f"{_DRIVERS}/{driver}")
        minor, group = self._read(f"/kernel/minors/{address}"), self._group(address)
        if driver == "nvidia" and minor:
            self._file(
                f"/proc/driver/nvidia/gpus/{address}/information", f"Model: \t\t NVIDIA\nDevice Minor: \t {minor}\n"
            )
        if driver == "vfio-pci" and group:
            self._file(f"/sys/class/vfio/{group}/dev", f"240:{group}\n")
            self._device(f"/dev/vfio/{group}", 240, int(group))
            if self._place("/host-root/dev/iommu").exists():
                number = self.addresses().index(address)
                self._file(f"{_DEVICES}/{address}/vfio-dev/vfio{number}/dev", f"241:{number}\n")

    def _detach(self, address: str) -> None:
        driver, group = self.driver(address), self._group(address)
        (self._place(f"{_DEVICES}/{address}") / "driver").unlink()
        if driver == "nvidia":
            shutil.rmtree(self._place(f"/proc/driver/nvidia/gpus/{address}"), ignore_errors=True)
            for other in self.addresses():  # functions that depend on the GPU lose their drivers with it
                if other.startswith(address[:-1]) and other != address and self.driver(other) not in ("", "vfio-pci"):
                    self._detach(other)
        if driver == "vfio-pci":
            shutil.rmtree(self._place(f"{_DEVICES}/{address}/vfio-dev"), ignore_errors=True)
            if group and not any(self.driver(a) == "vfio-pci" and self._group(a) == group for a in self.addresses()):
                shutil.rmtree(self._place(f"/sys/class/vfio/{group}"), ignore_errors=True)
                self._place(f"/dev/vfio/{group}").unlink(missing_ok=True)

    # ── files ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _override(self, address: str) -> str:
        return self._read(f"{_DEVICES}/{address}/driver_override").replace("(null)", "")

    def _group(self, address: str) -> str:
        try:
            return os.readlink(self._place(f"{_DEVICES}/{address}") / "iommu_group").rpartition("/")[2]
        except OSError:
            return ""

    def _place(self, path: str) -> Path:
        return self._folder / path.lstrip("/")

    def _read(self, path: str) -> str:
        try:
            return self._place(path).read_text().strip()
        except OSError:
            return ""

    def _entry(self, path: str) -> None:
        """A file that is there to be written to."""
        self._file(path)

    def _device(self, path: str, major: int, minor: int) -> None:
        if self._host is None:
            self._file(path)
        else:
            self._host.put_device(path, major, minor)

    def _file(self, path: str, content: str = "") -> None:
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)

    def _link(self, path: str, target: str) -> None:
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(target)


class PipedPciKernel(FakePciKernel):
    """The kernel behind a folder that other processes write to. What it refuses, the writer learns by looking again.

    has_driver   called with address and driver ("" for none) whenever a function got another one
    has_device   called with the path of a device node and its numbers; without it there is a plain file in the folder
    """

    def __init__(
        self,
        folder: Path,
        has_driver: Callable[[str, str], None],
        has_device: Callable[[str, int, int], None] | None = None,
        *,
        drivers: tuple[str, ...] = ("nvidia", "vfio-pci"),
    ) -> None:
        self._has_driver = has_driver
        self._has_device = has_device
        self._pipes = selectors.DefaultSelector()
        super().__init__(folder, drivers=drivers)
        self._ends, wakes = os.pipe()
        self._pipes.register(self._ends, selectors.EVENT_READ, "")
        self._wakes = wakes
        self._thread = threading.Thread(target=self._run, name="kernel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.write(self._wakes, b"x")
        self._thread.join(10)
        for key in list(self._pipes.get_map().values()):
            os.close(key.fd)
        os.close(self._wakes)
        self._pipes.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._pipes.select():
                if not key.data:
                    return
                for address in _ADDRESS.findall(os.read(key.fd, 4096).decode()):
                    with contextlib.suppress(OSError):
                        self(f"/sys/bus/pci/{key.data}", address.encode())

    def _entry(self, path: str) -> None:
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(place)
        self._pipes.register(os.open(place, os.O_RDWR), selectors.EVENT_READ, path.removeprefix("/sys/bus/pci/"))

    def _device(self, path: str, major: int, minor: int) -> None:
        super()._device(path, major, minor)
        if self._has_device is not None:
            self._has_device(path, major, minor)

    def _attach(self, address: str, driver: str) -> None:
        super()._attach(address, driver)
        self._has_driver(address, driver)

    def _detach(self, address: str) -> None:
        super()._detach(address)
        self._has_driver(address, "")

    def _link(self, path: str, target: str) -> None:
        # Relative, as in sysfs: other programs may see the folder at another place.
        place = self._place(path)
        super()._link(path, os.path.relpath(self._place(target).resolve(), place.parent.resolve()))
