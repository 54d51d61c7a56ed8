"""ResourceSlices that a node of a given type would publish, without the node: a portrait read by the plugin's own code.

The portrait is laid out by nvdra-mock-nvml in a temporary folder, scanned through NVML, and published to nobody. What
differs between two nodes of one type (UUIDs, PCI addresses) is the portrait's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nvdra.api.gates import DYNAMIC_MIG, PASSTHROUGH_SUPPORT, Gates
from nvdra.gpu import Inventory, NotPublished, from_scan, with_twins
from nvdra.gpu.extents import DRIVER
from nvdra.gpu.shares import NOT_SHARED, Shares
from nvdra.gpu.twins import counter_sets, offered
from nvdra.host import Node, PciNames, driver_root, find_library, localities, look_at_bus, look_at_passthrough
from nvdra.node.clock import LoopClock
from nvdra.nvml import Nvml
from nvdra.slices import COUNTERS_SINCE, Pool, changes, device_problems, slice_problems, specs_for

Value = Mapping[str, Any]


class ForecastError(Exception):
    """The node type cannot be read or its slices cannot be made; the text is for people."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one node type publishes.

    gpus           GPUs that NVML reports, published as such or not
    slices         bodies of POST requests, v1-shaped, without the owner reference (it holds the Node's UID)
    not_published  GPUs and partitions that are there and left out, with the reason
    """

    portrait: str
    gpus: int
    slices: tuple[Value, ...]
    not_published: tuple[NotPublished, ...]

    @property
    def devices(self) -> dict[str, Value]:
        """All published devices by name."""
        return {str(device["name"]): device for body in self.slices for device in body["spec"].get("devices") or ()}


def portraits() -> list[str]:
    """Names of the node types that can be forecast. Raises ForecastError where the mock NVML is not installed."""
    return [name for name in _mock().names() if not _mock().load(name).is_recorded]


async def forecast(
    portrait: str,
    gates: Gates,
    sharing: Shares = NOT_SHARED,
    *,
    node_name: str,
    minor: int,
    with_topology: bool = False,
) -> Forecast:
    """Returns the forecast of a node of this type.

    portrait   a portrait's name, or the path of a portrait's .json file
    node_name  names the pool and the slices
    minor      minor version of the API server: it decides about layout and counters
    with_topology   the plugin publishes where GPUs lie
    Raises ForecastError.
    """
    inventory = await _inventory(
        portrait,
        dynamic_mig=gates.enabled(DYNAMIC_MIG),
        passthrough=gates.enabled(PASSTHROUGH_SUPPORT),
        with_topology=with_topology,
    )
    if inventory.unread:
        raise ForecastError(f"portrait {portrait}: its GPUs cannot be read: {inventory.unread}")
    made = [offered(device, inventory, gates, sharing) for device in inventory.devices.values()]
    refused = {str(device["name"]): problems for device in made if (problems := device_problems(device))}
    fit = [device for device in made if device["name"] not in refused]
    left_out = tuple(NotPublished(name, "; ".join(problems)) for name, problems in refused.items())
    bodies = _slices(fit, inventory, gates, Pool(DRIVER, node_name), minor)
    return Forecast(portrait, len(inventory.gpus), bodies, (*inventory.not_published, *left_out))


def _slices(devices: Sequence[Value], inventory: Inventory, gates: Gates, pool: Pool, minor: int) -> tuple[Value, ...]:
    specs = specs_for(
        devices,
        (*inventory.counter_sets(), *counter_sets(inventory)),
        has_counters=gates.enabled(DYNAMIC_MIG) or gates.enabled(PASSTHROUGH_SUPPORT),
        is_counted=minor >= COUNTERS_SINCE,
        minor=minor,
    )
    bodies = tuple(create.body for create in changes(specs, (), pool).creates)
    for body in bodies:
        if problems := slice_problems(body["spec"], minor):
            raise ForecastError(f"an API server of Kubernetes 1.{minor} would refuse the slices: {'; '.join(problems)}")
    return bodies


async def _inventory(portrait: str, *, dynamic_mig: bool, passthrough: bool, with_topology: bool) -> Inventory:
    """The inventory; for passthrough of a node whose GPUs have IOMMU groups of their own."""
    mock = _mock()
    with tempfile.TemporaryDirectory(prefix="nvdra-forecast-") as folder:
        try:
            root = mock.lay_out(Path(folder) / "driver", portrait, device_files="regular")
        except Exception as error:  # its errors have no common class; each text is for people
            raise ForecastError(str(error)) from None
        host = Node()
        here = driver_root(host, str(root.root), {"NVDRA_SYSFS": str(root.sysfs), "NVDRA_PROCFS": str(root.procfs)})
        nvml = Nvml(lambda: find_library(host, here), LoopClock())
        try:
            scan = await nvml.scan(profiles=dynamic_mig)
            pci = look_at_bus(host, here).facts
            places = localities(host, here, pci) if with_topology else None
            found = from_scan(scan, pci, dynamic_mig=dynamic_mig, never_toggles=False, localities=places)
            if not passthrough:
                return found
            _lay_groups(Path(here.sysfs), [address for address, facts in pci.items() if facts.is_gpu])
            facts = look_at_passthrough(host, here, "/", PciNames(host, "/"), pci)
            return with_twins(found, pci, replace(facts, has_iommufd=False))
        finally:
            with suppress(TimeoutError):
                await nvml.close(timeout_s=2.0)


def _lay_groups(sysfs: Path, addresses: Sequence[str]) -> None:
    for number, address in enumerate(addresses):
        member = sysfs / f"kernel/iommu_groups/{number}/devices" / address
        member.mkdir(parents=True)
        (sysfs / "bus/pci/devices" / address).resolve().joinpath("iommu_group").symlink_to(member.parents[1])


def _mock() -> Any:
    try:
        import nvdra_mock_nvml
    except ModuleNotFoundError:
        raise ForecastError(
            "node types come from the package nvdra-mock-nvml, which is not installed here: "
            "pip install 'dra-driver-nvidia-gpu[demo]' nvdra-mock-nvml, or run `make build` in the source tree"
        ) from None
    return nvdra_mock_nvml
