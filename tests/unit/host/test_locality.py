"""Where PCI functions lie, as sysfs shows it: the switch above a GPU and the socket beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra.gpu.topology import Locality
from nvdra.host import driver_root, localities
from nvdra.testing.host import FakeHost

GPU = "0000:1b:00.0"
ON_A_SWITCH = "pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:00.0"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path)
    host.write("/r/dev/null")
    return host


def put(host: FakeHost, path: str, cpus: str = "") -> None:
    host.write(f"/sys/devices/{path}/{GPU}/local_cpulist", f"{cpus}\n")
    host.link(f"/sys/bus/pci/devices/{GPU}", f"../../../devices/{path}/{GPU}")


def socket(host: FakeHost, first: int, number: str, cpus: str, name: str = "package_cpus_list") -> None:
    host.write(f"/sys/devices/system/cpu/cpu{first}/topology/physical_package_id", f"{number}\n")
    host.write(f"/sys/devices/system/cpu/cpu{first}/topology/{name}", f"{cpus}\n")


def look(host: FakeHost) -> Locality:
    (found,) = localities(host, driver_root(host, "/r", {}), [GPU]).values()
    return found


@pytest.mark.parametrize(
    ("path", "switch"),
    [
        (ON_A_SWITCH, "0000:16:00.0"),
        # The nearest of two switches; a hypervisor's bus in front; below a root port; on the root bus; no bus at all.
        (f"{ON_A_SWITCH}/0000:18:00.0/0000:19:00.0", "0000:18:00.0"),
        (f"acpi/{ON_A_SWITCH}", "0000:16:00.0"),
        ("pci0000:15/0000:15:01.0", None),
        ("pci0000:15", None),
        ("platform/soc", None),
    ],
)
def test_the_switch_is_the_upstream_port_of_the_nearest_one(host: FakeHost, path: str, switch: str | None) -> None:
    put(host, path)
    assert look(host).pcie_switch == switch


@pytest.mark.parametrize("name", ["package_cpus_list", "core_siblings_list"])
def test_the_socket_is_that_of_all_cpus_nearby(host: FakeHost, name: str) -> None:
    put(host, ON_A_SWITCH, "56-111,168-223")
    socket(host, 56, "1", "56-111,168-223", name)
    assert look(host).cpu_socket == 1


def test_half_a_socket_is_nearby_where_sockets_have_several_numa_nodes(host: FakeHost) -> None:
    put(host, ON_A_SWITCH, "4-7")
    socket(host, 4, "0", "0-7")
    assert look(host).cpu_socket == 0


def test_cpus_of_two_sockets_are_no_answer(host: FakeHost) -> None:
    put(host, ON_A_SWITCH, "0-7")
    socket(host, 0, "0", "0-3")
    assert look(host).cpu_socket is None


@pytest.mark.parametrize(
    ("near", "number", "cpus"),
    [("", "0", "0-3"), ("odd", "0", "0-3"), ("0-3", "odd", "0-3"), ("0-3", "-1", "0-3"), ("0-3", "0", "")],
)
def test_what_cannot_be_read_is_unknown(host: FakeHost, near: str, number: str, cpus: str) -> None:
    put(host, ON_A_SWITCH, near)
    socket(host, 0, number, cpus)
    assert look(host) == Locality(pcie_switch="0000:16:00.0")


def test_a_function_that_sysfs_does_not_show_costs_nothing_else(host: FakeHost) -> None:
    put(host, ON_A_SWITCH)
    root = driver_root(host, "/r", {})
    assert localities(host, root, ["0000:ff:00.0", GPU]) == {
        "0000:ff:00.0": Locality(),
        GPU: Locality(pcie_switch="0000:16:00.0"),
    }
