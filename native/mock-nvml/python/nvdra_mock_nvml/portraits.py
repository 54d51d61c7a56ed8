"""Portraits: nodes as data. What this module reads, the library reads too (`src/portrait.rs` is the full format)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvdra_mock_nvml import shipped


class PortraitError(Exception):
    """There is no such portrait, or its file makes no sense."""


@dataclass(frozen=True, slots=True)
class Bar:
    size_bytes: int
    flags: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """What the driver root and the stand-ins need to know of a GPU; the rest is the library's."""

    minor: int
    uuid: str
    name: str
    pci_bus_id: str
    pcie_path: tuple[str, ...]
    numa_node: int
    pci_device_id: int
    pci_subsystem_id: int
    pci_class: int
    bars: tuple[Bar, ...]
    vbios: str | None
    module_id: int
    near_cpus: str = ""  # as sysfs writes them, "0-55,112-167"


@dataclass(frozen=True, slots=True)
class Socket:
    """A CPU socket. `cpus` as sysfs writes them."""

    number: int
    cpus: str


@dataclass(frozen=True, slots=True)
class Portrait:
    name: str
    about: str
    driver_version: str
    cuda_version: int
    gpus: tuple[Gpu, ...]
    is_recorded: bool  # another mock's node: no portrait beside the library, no soname, no sysfs
    sockets: tuple[Socket, ...]
    has_fabric: bool  # its GPUs are part of an NVLink fabric
    text: str  # the whole file, models inside: what is laid beside the library


def names() -> list[str]:
    """The portraits that come with the package."""
    return sorted(file.stem for file in shipped.portraits().glob("*.json"))


def load(name: str) -> Portrait:
    """The portrait of this name, or in the file of this path.

    Raises PortraitError, naming the file and what is wrong in it.
    """
    file = Path(name) if name.endswith(".json") else shipped.portraits() / f"{name}.json"
    if not file.is_file():
        raise PortraitError(f"no portrait {name!r}: there are {', '.join(names())}, or give the path of a .json file")
    try:
        return _portrait(_whole(file))
    except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
        raise PortraitError(f"{file}: {type(error).__name__}: {error}") from error


def derived_uuid(seed: str) -> str:
    """The UUID (version 8) the library derives from the same seed, `<portrait>/<minor>`."""
    state = 0xCBF29CE484222325
    for byte in seed.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    high = _mixed(state) & ~0xF000 | 0x8000
    low = _mixed(state ^ 0x9E3779B97F4A7C15) & ~(0b11 << 62) | 0b10 << 62
    digits = f"{high:016x}{low:016x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _mixed(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def _whole(file: Path) -> dict[str, Any]:
    """The portrait with the models it names by file put in."""
    raw: dict[str, Any] = json.loads(file.read_text())
    raw["models"] = {
        name: json.loads((file.parent / model).read_text()) if isinstance(model, str) else model
        for name, model in raw["models"].items()
    }
    return raw


def _portrait(raw: dict[str, Any]) -> Portrait:
    return Portrait(
        name=raw["name"],
        about=raw["about"],
        driver_version=raw["driver_version"][0],
        cuda_version=raw["cuda_version"][0],
        gpus=tuple(_gpus(raw)),
        is_recorded=raw.get("recorded", False),
        sockets=tuple(_sockets(raw)),
        has_fabric="fabric" in raw,
        text=json.dumps(raw, indent=1) + "\n",
    )


def _gpus(raw: dict[str, Any]) -> Iterator[Gpu]:
    for gpu in raw["gpus"]:
        model = raw["models"][gpu["model"]]
        derived = "GPU-" + derived_uuid(f"{raw['name']}/{gpu['minor']}")
        yield Gpu(
            minor=gpu["minor"],
            uuid=gpu.get("uuid", [derived])[0],
            name=model["name"][0],
            pci_bus_id=gpu["pci_bus_id"][0],
            pcie_path=tuple(gpu["pcie_path"][0]),
            numa_node=gpu["numa_node"][0],
            pci_device_id=model["pci_device_id"][0],
            pci_subsystem_id=model["pci_subsystem_id"][0],
            module_id=gpu.get("module_id", [0])[0],
            pci_class=model["pci_class"][0],
            bars=tuple(Bar(bar["size_bytes"][0], bar["flags"][0]) for bar in model["bars"]),
            vbios=model.get("vbios", [None])[0],
            near_cpus=_near_cpus(raw, gpu["numa_node"][0]),
        )


def _sockets(raw: dict[str, Any]) -> Iterator[Socket]:
    nodes = raw["host"]["numa_nodes"]
    for number in sorted({node["socket"] for node in nodes}):
        yield Socket(number, ",".join(node["cpus"][0] for node in nodes if node["socket"] == number))


def _near_cpus(raw: dict[str, Any], numa_node: int) -> str:
    """CPUs of the NUMA node; all where the platform does not say which is near."""
    nodes = raw["host"]["numa_nodes"]
    near = [node for node in nodes if node["node"] == numa_node] or nodes
    return ",".join(node["cpus"][0] for node in near)
