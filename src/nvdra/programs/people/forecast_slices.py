"""ResourceSlices that a node of a given type would publish, without the node: a portrait read by the plugin's own code.

The portrait is laid out by nvdra-mock-nvml in a temporary folder, scanned through NVML, and published to nobody. What
differs between two nodes of one type (UUIDs, PCI addresses) is the portrait's.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvdra.api.gates import DYNAMIC_MIG, Gates
from nvdra.gpu import Inventory, NotPublished, from_scan, published
from nvdra.gpu.extents import DRIVER
from nvdra.host import Node, driver_root, find_library, look_at_bus
from nvdra.node.clock import LoopClock
from nvdra.nvml import Nvml
from nvdra.slices import COUNTERS_SINCE, Pool, changes, device_problems, layout_for, slice_problems, uncounted, wanted

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


async def forecast(portrait: str, gates: Gates, *, node_name: str, minor: int) -> Forecast:
    """Returns the forecast of a node of this type.

    portrait   a portrait's name, or the path of a portrait's .json file
    node_name  names the pool and the slices
    minor      minor version of the API server: it decides about layout and counters
    Raises ForecastError.
    """
    inventory = await _inventory(portrait, dynamic_mig=gates.enabled(DYNAMIC_MIG))
    if inventory.unread:
        raise ForecastError(f"portrait {portrait}: its GPUs cannot be read: {inventory.unread}")
    return Forecast(
        portrait,
        len(inventory.gpus),
        _slices(inventory, gates, Pool(DRIVER, node_name), minor),
        inventory.not_published,
    )


def _slices(inventory: Inventory, gates: Gates, pool: Pool, minor: int) -> tuple[Value, ...]:
    devices: Sequence[Value] = [published(device, gates) for device in inventory.devices.values()]
    devices = [device for device in devices if not device_problems(device)]
    counter_sets: Sequence[Value] = inventory.counter_sets()
    if counter_sets and minor < COUNTERS_SINCE:
        devices, counter_sets = uncounted(devices), ()
    layout = layout_for(has_counters=gates.enabled(DYNAMIC_MIG), counter_sets=counter_sets, minor=minor)
    specs = wanted(devices, layout, counter_sets=counter_sets)
    bodies = tuple(create.body for create in changes(specs, (), pool).creates)
    for body in bodies:
        if problems := slice_problems(body["spec"], minor):
            raise ForecastError(f"an API server of Kubernetes 1.{minor} would refuse the slices: {'; '.join(problems)}")
    return bodies


async def _inventory(portrait: str, *, dynamic_mig: bool) -> Inventory:
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
            return from_scan(scan, look_at_bus(host, here).facts, dynamic_mig=dynamic_mig, never_toggles=False)
        finally:
            with suppress(TimeoutError):
                await nvml.close(timeout_s=2.0)


def _mock() -> Any:
    try:
        import nvdra_mock_nvml
    except ModuleNotFoundError:
        raise ForecastError(
            "node types come from the package nvdra-mock-nvml, which is not installed here: "
            "pip install 'dra-driver-nvidia-gpu[demo]' nvdra-mock-nvml, or run `make build` in the source tree"
        ) from None
    return nvdra_mock_nvml


async def forecasts(names: Sequence[str], gates: Gates, *, minor: int) -> list[Forecast]:
    """Returns the forecasts of several node types, one after the other; each node is named like its type."""
    return [await forecast(name, gates, node_name=Path(name).stem, minor=minor) for name in names]


def run_forecasts(names: Sequence[str], gates: Gates, *, minor: int) -> list[Forecast]:
    """`forecasts`, for callers without an event loop."""
    return asyncio.run(forecasts(names, gates, minor=minor))
