"""GPUs that NVML does not show, or that are too odd: not published, and yet known by their PCI address."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nvdra import claims
from nvdra.api import gates
from nvdra.checkpoint import Checkpoint
from nvdra.claims import NeedsSteps, Ready, Refuse, Teardown
from nvdra.gpu import HiddenGpu, Inventory, LeftOut, NotPublished, PciFacts, from_scan
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.extents import GpuExtent, extent
from nvdra.gpu.unpublished import withdrawn
from nvdra.gpu.vfio import vfio_uuid
from tests.unit.claims.world import claim, gpu_config, passed_through, plan, prepared
from tests.unit.gpu import scans

LAST = "0000:08:00.0"  # of gpu-7
SLICING = gpu_config({"sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}})
ON = gates.parse("TimeSlicingSettings=true")


def facts(driver: str = "nvidia", **of_last: Any) -> dict[str, PciFacts]:
    """Eight GPUs on the bus, the last one bound to this driver; a function that is no GPU beside it."""
    found = {f"0000:{minor + 1:02x}:00.0": PciFacts(driver="nvidia", is_gpu=True) for minor in range(8)}
    return {**found, LAST: PciFacts(driver=driver, is_gpu=True, **of_last), "0000:08:00.1": PciFacts(driver="snd")}


def seven(before: Inventory | None = None, driver: str = "vfio-pci", **scan: Any) -> Inventory:
    """The node while NVML does not show the last GPU."""
    return from_scan(scans.node_scan(*map(scans.gpu_scan, range(7)), **scan), facts(driver), before=before)


def eight() -> Inventory:
    return from_scan(scans.node_scan(*map(scans.gpu_scan, range(8))), facts())


@pytest.mark.parametrize(
    ("driver", "words"),
    [("vfio-pci", "bound to vfio-pci"), ("", "bound to no kernel driver"), ("nvidia", "bound to nvidia")],
)
def test_a_gpu_that_nvml_never_showed_is_there_by_its_address(driver: str, words: str) -> None:
    found = seven(driver=driver)
    reason = f"on the PCI bus, {words}, and not seen by NVML"
    assert found.hidden == {LAST: HiddenGpu(LAST, driver, reason, uuid=None, minor=None)}
    assert list(found.devices) == [f"gpu-{minor}" for minor in range(7)]
    assert LAST not in found.gpus
    assert found.addresses[-1] == LAST
    assert extent("gpu-vfio-7", found) == GpuExtent(LAST)
    assert extent("gpu-7", found) is None, "who knows which GPU that would be"


def test_what_an_earlier_scan_said_of_it_stays_known() -> None:
    found = seven(eight())
    assert (found.hidden[LAST].uuid, found.hidden[LAST].minor) == (scans.uuid_of(7), 7)
    again = seven(found)
    assert again.hidden == found.hidden
    assert extent("gpu-7", again) == GpuExtent(LAST)
    assert extent("gpu-7-mig-1g5gb-19-2", again) == GpuExtent(LAST, range(2, 3))
    assert again.address_of(scans.uuid_of(7)) == LAST
    assert again.why_absent("gpu-7") == f"its GPU {LAST}: on the PCI bus, bound to vfio-pci, and not seen by NVML"
    assert from_scan(scans.node_scan(*map(scans.gpu_scan, range(8))), facts(), before=again).hidden == {}


def test_a_claimed_gpu_stays_claimed_under_any_name_while_it_is_hidden() -> None:
    checkpoint = prepared(claim("c1", "gpu-7"), inventory=eight())
    hidden = seven(eight())
    for name in ("gpu-7", "gpu-vfio-7"):
        refuse = plan(claim("new", name), checkpoint, inventory=hidden)
        assert isinstance(refuse, Refuse)
        assert refuse.reason.endswith(f"requested device {name} is already allocated to different claim c1")
    assert isinstance(plan(claim("new", "gpu-6"), checkpoint, inventory=hidden), Ready)


def test_a_hidden_gpu_that_is_passed_through_withdraws_nothing() -> None:
    checkpoint = Checkpoint("boot", {"c1": passed_through(claim("c1", "gpu-vfio-7"), vfio_uuid(LAST))})
    assert withdrawn(seven(), checkpoint) == frozenset()
    assert withdrawn(eight(), checkpoint) == {"gpu-7"}


def test_a_minor_number_that_another_gpu_has_now_is_that_gpus() -> None:
    others = [*map(scans.gpu_scan, range(6)), scans.gpu_scan(7, pci_bus_id="00000000:07:00.0", uuid="GPU-other")]
    found = from_scan(scans.node_scan(*others), facts("vfio-pci"), before=eight())
    assert found.hidden[LAST].minor == 7
    assert extent("gpu-7", found) == GpuExtent("0000:07:00.0")


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ({"uuid": ""}, LAST),
        ({"uuid": "", "pci_bus_id": "00010000:E1:00.0"}, "10000:e1:00.0"),
        ({"pci_bus_id": "none of these"}, ""),
        ({"minor": 3}, LAST),
    ],
)
def test_an_odd_gpu_is_known_by_its_address_and_not_offered(changes: dict[str, Any], address: str) -> None:
    odd = replace(scans.gpu_scan(7), **changes)
    found = from_scan(scans.node_scan(*map(scans.gpu_scan, range(7)), odd), {})
    assert list(found.devices) == [f"gpu-{minor}" for minor in range(7)]
    ((left,),) = (found.not_published,)
    assert isinstance(left, NotPublished)
    assert list(found.hidden) == [address] * bool(address)
    for hidden in found.hidden.values():
        assert (hidden.reason, hidden.uuid, hidden.minor) == (left.reason, odd.uuid or None, odd.minor)


def test_a_display_of_a_workstation_is_no_hidden_gpu() -> None:
    display = scans.gpu_scan(7, name="NVIDIA DGX Display")
    assert from_scan(scans.node_scan(*map(scans.gpu_scan, range(7)), display), facts()).hidden == {}


def test_a_slice_of_a_lost_gpu_is_not_taken_for_reset() -> None:
    """Its UUID is known from before, so its address is; that alone does not make it a GPU that could be set."""
    one = claim("c1", "gpu-7", config=[SLICING])
    needs = plan(one, inventory=eight(), gates=ON)
    assert isinstance(needs, NeedsSteps)
    entry = claims.seal(GpuDriver(ON), needs.completed({})).entry
    lost = LeftOut(7, None, None, "nvmlDeviceGetHandleByIndex_v2", 15, "GPU is lost")
    refuse = GpuDriver(ON).teardown(one.ref, entry, seven(eight(), "nvidia", left_out=(lost,)), Checkpoint("boot"))
    assert isinstance(refuse, Refuse)
    assert "gpu-7 cannot be read now, so its time slice cannot be reset" in refuse.reason
    gone = GpuDriver(ON).teardown(one.ref, entry, seven(eight()), Checkpoint("boot"))
    assert isinstance(gone, Teardown)
    assert gone.steps == (), "another driver has it: there is nothing to reset"
