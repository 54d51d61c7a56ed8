"""A full GPU as this node offers it, and the texts its NVML numbers are published as.

Values only. What NVML says comes in as a scan; what sysfs says comes in as `PciFacts`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nvdra.gpu.mig_profile import Partitioning
from nvdra.gpu.names import GpuName

# Source: NVML API reference, nvmlDeviceArchitecture_t, nvmlBrandType_t, nvmlDeviceAddressingModeType_t.
_ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada Lovelace",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
    0xFFFFFFFF: "Unknown",
}
_BRANDS = {
    0: "Unknown",
    1: "Quadro",
    2: "Tesla",
    3: "NVS",
    4: "Grid",
    5: "GeForce",
    6: "Titan",
    7: "NvidiaVApps",
    8: "NvidiaVPC",
    9: "NvidiaVCS",
    10: "NvidiaVWS",
    11: "NvidiaCloudGaming",
    12: "QuadroRTX",
    13: "NvidiaRTX",
    14: "Nvidia",
    15: "GeForceRTX",
    16: "TitanRTX",
}
_ADDRESSING_MODES = {0: "None", 1: "HMM", 2: "ATS"}

_BUS_ID = re.compile(r"(?=[0-9a-f]{4,8}:)0{0,4}(?P<address>[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])", re.ASCII)

# Strict semantic versioning after the numbers: what the API server accepts in a version attribute.
_PRERELEASE = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    r"(?P<numbers>[0-9]+(?:\.[0-9]+)*)"
    rf"(?P<pre>-{_PRERELEASE}(?:\.{_PRERELEASE})*)?"
    r"(?P<build>\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)


class OddDeviceError(ValueError):
    """A device whose identity cannot be published; the text says what is odd about it."""


@dataclass(frozen=True, slots=True)
class PciFacts:
    """What sysfs says of a PCI function; None where it does not say.

    pcie_root   first component of the device's path below /sys/devices, "pci0000:00"
    driver      kernel driver that it is bound to; "" if none
    is_gpu      a graphics or 3D controller that is no virtual function
    """

    numa_node: int | None = None
    pcie_root: str | None = None
    driver: str = ""
    is_gpu: bool = False


@dataclass(frozen=True, slots=True)
class Gpu:
    """A full GPU. Texts and versions are as published, `pci_bus_id` is sysfs' form ("0000:9f:00.0").

    partitioning   None: it is not partitioned on demand (gate DynamicMIG off, or not capable of it)
    index          NVML's and `nvidia-smi`'s; it changes when a GPU before it goes
    module_id      its place on the board, as Fabric Manager numbers it; 0 if it has none
    """

    minor: int
    uuid: str
    product_name: str
    brand: str
    architecture: str
    cuda_compute_capability: str
    driver_version: str
    cuda_driver_version: str
    pci_bus_id: str
    memory_bytes: int | None
    addressing_mode: str | None
    pci: PciFacts
    partitioning: Partitioning | None = None
    index: int = -1
    module_id: int = 0

    @property
    def name(self) -> str:
        return str(GpuName(self.minor))


def architecture_text(number: int) -> str:
    return _ARCHITECTURES.get(number) or _unknown(number)


def brand_text(number: int) -> str:
    return _BRANDS.get(number) or _unknown(number)


def addressing_mode_text(number: int) -> str:
    return _ADDRESSING_MODES.get(number) or _unknown(number)


def _unknown(number: int) -> str:
    # A number NVML learned after this table was written: published as what it is, it stops nothing.
    return f"Unknown({number})"


def pci_bus_id(text: str) -> str:
    """sysfs' form of NVML's bus id: "00000000:9F:00.0" is "0000:9f:00.0", "00010000:9F:00.0" is "10000:9f:00.0".

    Raises OddDeviceError for what is no PCI address.
    """
    found = _BUS_ID.fullmatch(text.lower())
    if found is None:
        raise OddDeviceError(f'PCI bus id "{text}" is not of the form dddd:bb:dd.f')
    return found["address"]


def pci_address(text: str) -> str:
    """The same as `pci_bus_id`; "" for what is no PCI address."""
    try:
        return pci_bus_id(text)
    except OddDeviceError:
        return ""


def version(text: str) -> str:
    """Three numbers without leading zeros, as version attributes need: "580.159.04" is "580.159.4", "9.0" "9.0.0".

    A suffix "-x" or "+y" stays. What stands after a third number becomes build metadata: "1.2.3.04" is "1.2.3+04".
    Raises OddDeviceError for what has no such form.
    """
    found = _VERSION.fullmatch(text)
    if found is None:
        raise OddDeviceError(f'version "{text}" is not made of numbers')
    numbers = found["numbers"].split(".")
    three = ".".join(str(int(number)) for number in [*numbers, "0", "0"][:3])
    build = found["build"] or ""
    if more := ".".join(numbers[3:]):
        build = f"+{more}.{build[1:]}" if build else f"+{more}"
    normal = three + (found["pre"] or "") + build
    if len(normal) > 64:
        raise OddDeviceError(f'version "{text}" is longer than 64 characters')
    return normal


def cuda_version(number: int) -> str:
    """The version that NVML's CUDA number stands for: 13000 is "13.0.0"."""
    return f"{number // 1000}.{number % 1000 // 10}.0"
