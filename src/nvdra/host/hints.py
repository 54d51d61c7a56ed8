"""Hints that the driver or its GPUs changed: file states, compared every few seconds, without NVML or open devices."""

from __future__ import annotations

from dataclasses import dataclass

from nvdra.host.driver_root import DriverFileMissing, DriverRoot, find_library, module_version
from nvdra.host.pci import BusListing
from nvdra.ports import Host


@dataclass(frozen=True, slots=True)
class DriverHints:
    """A snapshot. Two are equal if nothing changed that a scan or a container's driver files depend on.

    library         NVML's file, links followed; None if it is not there
    library_status  its (device, inode, mtime_ns, size): a driver of the same version may be installed anew
    folder_ns       when a file last came into or left the library's folder, where most of the driver lies
    module          version of the loaded kernel module
    functions       addresses of NVIDIA's PCI functions
    bound           addresses of GPUs the kernel module drives
    partitions      entries of capabilities/gpu*/mig
    """

    library: str | None
    library_status: tuple[int, int, int, int] | None
    folder_ns: int | None
    module: str | None
    functions: tuple[str, ...]
    bound: tuple[str, ...]
    partitions: tuple[str, ...]


class Hints:
    """Reads the hints repeatedly; caches values that cannot change."""

    def __init__(self, host: Host, root: DriverRoot) -> None:
        self._host = host
        self._root = root
        self._bus = BusListing(host, root)

    def look(self) -> DriverHints:
        """The hints as they are now. Reads files only; may be called in any thread, by one caller at a time."""
        try:
            library: str | None = find_library(self._host, self._root)
        except DriverFileMissing:
            library = None
        status = folder_ns = None
        if library is not None:
            try:
                seen = self._host.stat(library)
                status = (seen.dev, seen.ino, seen.mtime_ns, seen.size)
                folder_ns = self._host.stat(library.rpartition("/")[0]).mtime_ns
            except OSError:
                library = None  # it was removed in between
        driver = f"{self._root.procfs}/driver/nvidia"
        return DriverHints(
            library=library,
            library_status=status,
            folder_ns=folder_ns,
            module=module_version(self._host, self._root),
            functions=tuple(self._bus.look()),
            bound=tuple(self._names(f"{driver}/gpus")),
            partitions=tuple(
                f"{gpu}/{entry}"
                for gpu in self._names(f"{driver}/capabilities")
                if gpu.startswith("gpu")
                for entry in self._names(f"{driver}/capabilities/{gpu}/mig")
            ),
        )

    def _names(self, folder: str) -> list[str]:
        try:
            return self._host.list(folder)
        except OSError:
            return []
