"""A pod is given a GPU for a virtual machine, and the scheduler never allocates its twin meanwhile.

The node's IOMMU and kernel drivers are stand-ins beside the driver root. The chart, the scheduler with its counters,
kubelet, containerd and the device node in the container are real.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvdra.testing.pci_bus import lay_bus
from nvdra.testing.pci_kernel import PipedPciKernel
from tests.cluster.harness.api import Api, Object, pod_phase, wait_until
from tests.cluster.harness.claims import claim, claim_of, remove, seen, user, wait_running
from tests.cluster.harness.driver import DRIVER, Installed, Plugin
from tests.cluster.unproven import UNPROVEN

pytestmark = [pytest.mark.cluster, UNPROVEN]

MINOR = 3
LOOK = "ls /dev/vfio; echo visible=$NVIDIA_VISIBLE_DEVICES; echo done; sleep 3600"
DEV = Path("/dev/vfio")


@pytest.fixture(scope="module")
def kernel(plugin: Plugin) -> Iterator[PipedPciKernel]:
    """The kernel of the node, and the gate on; afterwards the gate is off and every GPU has its driver."""
    if not isinstance(plugin, Installed):
        pytest.skip("another program takes the place of what the chart installs")
    root = plugin.root
    minors = {gpu.pci_bus_id: gpu.minor for gpu in root.portrait.gpus}

    def has_driver(address: str, driver: str) -> None:
        if (minor := minors.get(address)) is not None:
            (root.show_gpu if driver == "nvidia" else root.hide_gpu)(minor)

    def has_device(path: str, major: int, minor: int) -> None:
        if not os.path.exists(path):
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(major, minor))

    # Of this cluster's own mount namespace: nothing of it is seen outside.
    was_there = DEV.exists()
    DEV.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,dev", "tmpfs", str(DEV)], check=True)
    made = lay_bus(root.sysfs, minors, has_driver, has_device)
    plugin.release.upgrade("--set=featureGates.PassthroughSupport=true")
    try:
        wait_published(plugin, {f"gpu-vfio-{number}" for number in range(8)} | {f"gpu-{number}" for number in range(8)})
        yield made
    finally:
        plugin.release.upgrade()
        plugin.wait_published()
        made.close()
        subprocess.run(["umount", str(DEV)], check=True)
        if not was_there:
            DEV.rmdir()


def wait_published(plugin: Plugin, names: set[str]) -> None:
    wait_until(
        f"{len(names)} devices to be published",
        lambda: set(plugin.uuids()) == names,
        90,
        lambda: (sorted(plugin.uuids()), plugin.tail()),
    )


def wanted(api: Api, plugin: Plugin, name: str, device_class: str) -> Object:
    """A claim for the GPU of these tests, as a device of this class."""
    address = plugin.root.gpu(MINOR).pci_bus_id
    body = claim(api, name, selector=f"device.attributes['resource.kubernetes.io'].pciBusID == '{address}'")
    body["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] = device_class
    return body


def container_of(pod: Object) -> Any:
    return pod["spec"]["containers"][0]


def test_a_pod_gets_a_gpu_for_its_virtual_machine_and_the_twin_waits(plugin: Plugin, kernel: PipedPciKernel) -> None:
    api, address = plugin.cluster.api, plugin.root.gpu(MINOR).pci_bus_id
    vm = user("vm", "vm")
    container_of(vm)["command"] = ["/bin/sh", "-c", LOOK]
    api.create(wanted(api, plugin, "vm", "vfio.gpu.nvidia.com"))
    api.create(vm)
    wait_running(api, "vm")
    assert kernel.driver(address) == kernel.driver(f"{address[:-1]}1") == "vfio-pci"
    group = os.readlink(plugin.root.sysfs / f"bus/pci/devices/{address}/iommu_group").rpartition("/")[2]
    seen(api, "vm")
    assert api.logs("vm", "main").splitlines()[:2] == [group, "visible=void"]
    (result,) = claim_of(api, "vm")["status"]["allocation"]["devices"]["results"]
    assert (result["driver"], result["device"].startswith("gpu-vfio-")) == (DRIVER, True)

    # Its full GPU is asked for and cannot be had, neither now nor by mistake.
    api.create(wanted(api, plugin, "pod", "gpu.nvidia.com"))
    api.create(user("pod", "pod"))
    wait_until(
        "the scheduler to find no device",
        lambda: "cannot allocate all claims" in str(api.events("pod")),
        60,
        lambda: api.events("pod"),
    )
    assert pod_phase(api.get("Pod", "pod")) == "Pending"

    # The virtual machine goes: its GPU is the pod's.
    remove(api, ("vm",), ("vm",))
    wait_running(api, "pod")
    assert kernel.driver(address) == "nvidia"
    assert seen(api, "pod").uuids == {plugin.root.gpu(MINOR).uuid}
    remove(api, ("pod",), ("pod",))
    assert kernel.overrides() == {}
