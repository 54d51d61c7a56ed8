"""A PCI bus with IOMMU groups in a folder that a mock driver root has laid out, with a kernel behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from nvdra.testing.pci_kernel import PipedPciKernel


def lay_bus(
    sysfs: Path,
    minors: Mapping[str, int],
    has_driver: Callable[[str, str], None],
    has_device: Callable[[str, int, int], None] | None = None,
) -> PipedPciKernel:
    """Each GPU gets an audio function beside it, and both an IOMMU group of their own. Close the kernel afterwards.

    sysfs    the folder in place of /sys; /proc lies beside it
    minors   of the NVIDIA driver, by address of the GPU
    The rest is as in `PipedPciKernel`.
    """
    bus = sysfs / "bus/pci/devices"
    for address in minors:
        (bus / address / "driver").unlink(missing_ok=True)
    kernel = PipedPciKernel(sysfs.parent, has_driver, has_device, drivers=("nvidia", "snd_hda_intel", "vfio-pci"))
    for number, (address, minor) in enumerate(minors.items()):
        kind, device = (int((bus / address / name).read_text(), 16) for name in ("class", "device"))
        kernel.add(address, kind=kind, device=device, group=number, minor=minor)
        kernel.add(f"{address[:-1]}1", kind=0x040300, device=0x22BA, driver="snd_hda_intel", group=number)
    return kernel
