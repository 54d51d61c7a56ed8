"""What a claim for virtual machines is prepared as: the entries that the Go driver's own types marshal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nvdra.api import ClaimRef, gates
from nvdra.checkpoint import Checkpoint, decode, encode
from nvdra.claims import allocation
from nvdra.gpu import Passthrough, PassthroughFacts, PciFacts, with_twins
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.extents import DRIVER
from nvdra.gpu.vfio import bound_devices
from tests.unit.gpu import scans

GOLDEN = Path(__file__).parents[2] / "golden/checkpoint/gpu-vfio.json"
UID = "00000000-0000-4000-8000-00000000000{}"


@pytest.mark.parametrize("number", [1, 2], ids=["passthrough alone", "beside a pod's GPU"])
def test_an_entry_is_what_the_go_drivers_types_marshal(number: int) -> None:
    recorded = decode(GOLDEN.read_bytes())
    uid = UID.format(number)
    entry = recorded.entries[uid]
    addresses = [f"0000:{minor + 1:02x}:00.0" for minor in range(8)]
    facts = {address: PassthroughFacts("", "0x10de", "0x2330", 1) for address in addresses}
    pci = {address: PciFacts(driver="nvidia", is_gpu=True) for address in addresses}
    node = with_twins(scans.inventory(), pci, Passthrough(gpus=facts))
    driver, given = GpuDriver(gates.parse("PassthroughSupport=true")), allocation(entry.status, DRIVER)
    groups = driver.group([(result, node.devices[result.device]) for result in given.results], given.configs)
    made = tuple(driver.prepared(ClaimRef("default", "c", uid), each, bound_devices(groups)) for each in groups)
    assert made == entry.prepared
    ours = Checkpoint(recorded.boot_id, {**recorded.entries, uid: replace(entry, prepared=made)})
    assert encode(ours) == GOLDEN.read_bytes()
