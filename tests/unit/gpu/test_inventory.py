"""From a scan to the devices a node offers, and to what is published of them."""

from __future__ import annotations

import pytest

from nvdra.api import gates
from nvdra.gpu import Inventory, LeftOut, NotPublished, PciFacts, from_scan, published
from tests.unit.gpu import scans

OFF = gates.defaults()
GPU, NODE = scans.gpu_scan, scans.node_scan


@pytest.mark.parametrize("folder", ["v0.4.0-plain", "v0.4.0-ts", "v0.4.1-plain", "v0.4.1-ts", "main-plain"])
def test_the_recorded_node_is_published_as_recorded(folder):
    (recorded,) = scans.recording(folder, "slices.json")
    wanted = {device["name"]: device for device in recorded["spec"]["devices"]}
    assert {name: published(gpu, OFF) for name, gpu in scans.inventory(8).devices.items()} == wanted


def test_devices_stand_in_the_order_of_their_minors():
    found = from_scan(NODE(GPU(10, index=0), GPU(2, index=1), GPU(0, index=2)), {})
    assert list(found.devices) == ["gpu-0", "gpu-2", "gpu-10"]


def test_a_measured_h200_is_published_as_measured():
    seen = GPU(
        0,
        uuid="GPU-bbf1d9b4-0000-4000-8000-000000000000",
        name="NVIDIA H200",
        pci_bus_id="00000000:00:06.0",
        architecture=9,
        brand=14,
        cuda_compute_capability=(9, 0),
        memory_bytes=150754820096,
        addressing_mode=0,
    )
    facts = {"0000:00:06.0": PciFacts(numa_node=None, pcie_root="pci0000:00")}
    found = from_scan(NODE(seen, driver_version="580.159.04", cuda_driver_version=13000), facts)
    assert published(found.devices["gpu-0"], OFF) == {
        "attributes": {
            "addressingMode": {"string": "None"},
            "architecture": {"string": "Hopper"},
            "brand": {"string": "Nvidia"},
            "cudaComputeCapability": {"version": "9.0.0"},
            "cudaDriverVersion": {"version": "13.0.0"},
            "driverVersion": {"version": "580.159.4"},
            "productName": {"string": "NVIDIA H200"},
            "resource.kubernetes.io/pciBusID": {"string": "0000:00:06.0"},
            "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"},
            "type": {"string": "gpu"},
            "uuid": {"string": "GPU-bbf1d9b4-0000-4000-8000-000000000000"},
        },
        "capacity": {"memory": {"value": "143771Mi"}},
        "name": "gpu-0",
    }


def test_the_numa_node_is_a_list_only_with_its_gate():
    facts = {"0000:01:00.0": PciFacts(numa_node=1)}
    gpu = from_scan(NODE(GPU(0)), facts).devices["gpu-0"]
    key = "resource.kubernetes.io/numaNode"
    assert published(gpu, OFF)["attributes"][key] == {"int": 1}
    assert published(gpu, gates.parse("DRAListTypeAttributes=true"))["attributes"][key] == {"ints": [1]}


@pytest.mark.parametrize("facts", [{}, {"0000:01:00.0": PciFacts(-1, None)}])
def test_what_is_unknown_is_absent(facts):
    gpu = from_scan(NODE(GPU(0, memory_bytes=None)), facts).devices["gpu-0"]
    device = published(gpu, OFF)
    assert "capacity" not in device
    assert {"resource.kubernetes.io/numaNode", "resource.kubernetes.io/pcieRoot", "addressingMode"}.isdisjoint(
        device["attributes"]
    )


def test_a_pci_domain_of_32_bits_costs_the_attribute_alone():
    facts = {"10000:01:00.0": PciFacts(numa_node=1, pcie_root="pci10000:00")}
    found = from_scan(NODE(GPU(0), GPU(1, pci_bus_id="00010000:01:00.0")), facts)
    assert found.not_published == ()
    assert found.devices["gpu-1"].pci_bus_id == "10000:01:00.0"
    attributes = published(found.devices["gpu-1"], OFF)["attributes"]
    assert "resource.kubernetes.io/pciBusID" not in attributes
    assert attributes["resource.kubernetes.io/numaNode"] == {"int": 1}
    assert attributes["resource.kubernetes.io/pcieRoot"] == {"string": "pci10000:00"}


@pytest.mark.parametrize(
    ("facts", "affinity", "node"),
    [
        ({}, (1,), {"int": 1}),
        ({}, (0, 1), None),
        ({}, (), None),
        ({"0000:01:00.0": PciFacts(numa_node=0)}, (1,), {"int": 0}),
        ({"0000:01:00.0": PciFacts()}, (1,), None),  # sysfs says -1
    ],
)
def test_the_numa_node_is_nvmls_where_sysfs_does_not_show_the_gpu(facts, affinity, node):
    found = from_scan(NODE(GPU(0, pci_bus_id="00000000:01:00.0", memory_affinity=affinity)), facts)
    assert published(found.devices["gpu-0"], OFF)["attributes"].get("resource.kubernetes.io/numaNode") == node


def test_a_gpu_without_a_pci_address_says_what_it_is():
    left = LeftOut(1, 1, "GPU-integrated", "nvmlDeviceGetPciInfo_v3", 3, "Not Supported")
    found = from_scan(NODE(GPU(0), left_out=(left,)), {})
    ((device, reason),) = ((one.device, one.reason) for one in found.not_published)
    assert device == "gpu-1"
    assert reason.startswith("NVML tells no PCI address of it, as for an integrated GPU")
    assert reason.endswith("(nvmlDeviceGetPciInfo_v3: Not Supported (3))")
    assert list(found.devices) == ["gpu-0"]


def test_a_virtual_gpu_that_shows_no_partition_is_not_told_to_make_some():
    found = from_scan(NODE(GPU(0, mig_mode=(1, 1), virtualization_mode=2)), {})
    ((device, reason),) = ((one.device, one.reason) for one in found.not_published)
    assert device == "gpu-0"
    assert "decided on the host" in reason
    assert "nvidia-smi" not in reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pci_bus_id": "01:00.0"}, 'PCI bus id "01:00.0" is not of the form dddd:bb:dd.f'),
        ({"uuid": ""}, 'UUID "" cannot be published'),
        ({"uuid": "GPU-" + "0" * 61}, f'UUID "GPU-{"0" * 61}" cannot be published'),
        (
            {"mig_mode": (1, 1)},
            "MIG mode is on and there is no MIG device: make some (nvidia-smi mig -cgi), "
            "or turn it off (nvidia-smi -mig 0)",
        ),
    ],
)
def test_one_odd_gpu_is_left_out_with_a_reason(changes, reason):
    found = from_scan(NODE(GPU(0), GPU(1, **changes), GPU(2)), {})
    assert list(found.devices) == ["gpu-0", "gpu-2"]
    assert found.not_published == (NotPublished("gpu-1", reason),)
    assert found.why_absent("gpu-1") == reason


def test_of_two_gpus_with_one_minor_the_first_is_offered():
    found = from_scan(NODE(GPU(0), GPU(0, index=1, uuid="GPU-twin")), {})
    assert found.devices["gpu-0"].uuid == scans.uuid_of(0)
    assert found.not_published == (NotPublished("gpu-0", f"{scans.uuid_of(0)} has minor number 0 too"),)


def test_an_odd_driver_version_is_said_of_every_gpu():
    found = from_scan(NODE(GPU(0), GPU(1), driver_version="N/A"), {})
    assert not found.devices
    assert [left.device for left in found.not_published] == ["gpu-0", "gpu-1"]
    assert found.why_absent("gpu-1") == 'version "N/A" is not made of numbers'


@pytest.mark.parametrize(
    ("left", "device"),
    [
        (LeftOut(3, 3, "GPU-x", "nvmlDeviceGetName", 15, "GPU is lost"), "gpu-3"),
        (LeftOut(3, None, "GPU-x", "nvmlDeviceGetMinorNumber", 15, "GPU is lost"), "GPU-x"),
        (LeftOut(3, None, None, "nvmlDeviceGetMinorNumber", 15, "GPU is lost"), "GPU with index 3"),
    ],
)
def test_what_nvml_refuses_is_named_by_what_is_known(left, device):
    found = from_scan(NODE(GPU(0), left_out=(left,)), {})
    assert list(found.devices) == ["gpu-0"]
    assert found.not_published == (NotPublished(device, f"{left.function}: GPU is lost (15)"),)


@pytest.mark.parametrize("name", ["DGX Display", "NVIDIA DGX Display"])
def test_a_workstation_s_display_is_not_mentioned(name):
    found = from_scan(NODE(GPU(0, name=name), GPU(1)), {})
    assert list(found.devices) == ["gpu-1"]
    assert not found.not_published


def test_numbers_nvml_learned_later_stop_nothing():
    gpu = from_scan(NODE(GPU(0, architecture=17, brand=99, addressing_mode=7)), {}).devices["gpu-0"]
    assert (gpu.architecture, gpu.brand, gpu.addressing_mode) == ("Unknown(17)", "Unknown(99)", "Unknown(7)")


def test_a_long_product_name_is_cut_where_the_api_would_refuse_the_slice():
    gpu = from_scan(NODE(GPU(0, name="ä" * 40)), {}).devices["gpu-0"]
    assert gpu.product_name == "ä" * 32


def test_without_a_scan_the_reason_is_why_a_device_is_absent():
    unread = Inventory(unread="libnvidia-ml.so.1 not found")
    assert unread.why_absent("gpu-0") == "libnvidia-ml.so.1 not found"
    assert scans.inventory(1).why_absent("gpu-9") == ""


def test_a_gpu_that_told_no_minor_may_be_the_one_that_is_asked_for():
    lost = LeftOut(3, None, None, "nvmlDeviceGetName", 15, "GPU is lost")
    found = from_scan(NODE(GPU(0), left_out=(lost,)), {})
    assert found.why_absent("gpu-3") == (
        "GPUs that are not offered: GPU with index 3: nvmlDeviceGetName: GPU is lost (15)"
    )
