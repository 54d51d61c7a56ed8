"""Which hardware a prepared device is, in words that people and their tools know."""

from __future__ import annotations

from typing import Any

from nvdra.checkpoint import PreparedDevice, PreparedVfio
from nvdra.gpu.inventory import Inventory


def described(device: PreparedDevice, inventory: Inventory) -> dict[str, Any]:
    """`uuid`, `parentUUID` (of a MIG device's GPU), `pciBusID`, `minor`; what is not known is absent.

    Names as the attributes of published devices have them.
    """
    parent = "" if device.mig is None else device.mig.parent_uuid
    address = inventory.address_of(parent or device.uuid)
    gpu = inventory.gpus.get(address) or inventory.hidden.get(address)
    if isinstance(device.info, PreparedVfio):
        address = device.info.pci_bus_id
    elif gpu is None:
        address = "" if device.mig is None else device.mig.parent_pci_bus_id
    minor = gpu.minor if gpu is not None else None if device.mig is None else device.mig.parent_minor
    found = {"uuid": device.uuid, "parentUUID": parent, "pciBusID": address, "minor": minor}
    return {name: value for name, value in found.items() if value not in ("", None)}
