"""Fabric Manager's library: the real binding over the stand-in library, held to the same promises as the fake."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from nvdra_mock_nvml import MockFabric, lay_partitions
from nvdra_mock_nvml.fabric import LIBRARY, halves
from nvdra_mock_nvml.shipped import native

from nvdra.host import DriverRoot, driver_root
from nvdra.host.driver_root import DriverFileMissing
from nvdra.host.fabric_manager import (
    BAD_PARAM,
    IN_USE,
    NO_CONNECTION,
    FabricAddress,
    FabricError,
    FabricManager,
    fabric_address,
    has_fabric,
)
from nvdra.node.gpu.fabric import Manager
from nvdra.testing.fabric import FakeFabric
from nvdra.testing.host import FakeHost

ALL, LEFT, RIGHT = 0, 1, 2


@dataclass(frozen=True)
class Case:
    manager: Manager
    active: Callable[[], set[int]]


@pytest.fixture
def mock(tmp_path: Path) -> MockFabric:
    return lay_partitions(tmp_path, list(range(1, 9)))


@pytest.fixture
def manager(mock: MockFabric) -> Iterator[FabricManager]:
    made = FabricManager(lambda: str(native(LIBRARY)), FabricAddress(str(mock.socket)))
    yield made
    made.close()


@pytest.fixture(params=["real", "fake"])
def case(request: pytest.FixtureRequest, mock: MockFabric) -> Iterator[Case]:
    if request.param == "fake":
        fake = FakeFabric(enumerate(halves(list(range(1, 9)))))
        yield Case(fake, lambda: fake.active)
        return
    real = FabricManager(lambda: str(native(LIBRARY)), FabricAddress(str(mock.socket)))
    yield Case(real, mock.active)
    real.close()


def test_partitions_are_listed_with_their_gpus(case: Case) -> None:
    found = case.manager.partitions()
    assert [len(one.modules) for one in found] == [8, 4, 4, 2, 2, 2, 2, *[1] * 8]
    assert found[RIGHT].modules == (5, 6, 7, 8)
    assert not any(one.is_active for one in found)


def test_partitions_become_active_and_inactive(case: Case) -> None:
    case.manager.activate(LEFT)
    case.manager.activate(RIGHT)
    assert {one.id for one in case.manager.partitions() if one.is_active} == case.active() == {LEFT, RIGHT}
    case.manager.deactivate(LEFT)
    assert case.active() == {RIGHT}


@pytest.mark.parametrize(("partition", "code"), [(ALL, IN_USE), (LEFT, IN_USE), (99, BAD_PARAM)])
def test_refusals(case: Case, partition: int, code: int) -> None:
    case.manager.activate(LEFT)
    with pytest.raises(FabricError) as refused:
        case.manager.activate(partition)
    assert refused.value.code == code
    with pytest.raises(FabricError):
        case.manager.deactivate(RIGHT)
    assert case.active() == {LEFT}


@pytest.mark.parametrize("gpus", [8, 16])
def test_boards_of_eight_and_sixteen(tmp_path: Path, gpus: int) -> None:
    mock = lay_partitions(tmp_path, list(range(1, gpus + 1)))
    manager = FabricManager(lambda: str(native(LIBRARY)), FabricAddress(str(mock.socket)))
    assert len(manager.partitions()) == 2 * gpus - 1
    assert manager.partitions()[0].modules == tuple(range(1, gpus + 1))
    manager.close()


def test_one_connection_serves_all_calls(mock: MockFabric, manager: FabricManager) -> None:
    manager.partitions()
    manager.activate(LEFT)
    manager.deactivate(LEFT)
    assert mock.calls()["fmConnect"] == 1
    manager.close()
    assert mock.calls()["fmDisconnect"] == 1
    manager.partitions()  # and may be opened again
    assert mock.calls()["fmConnect"] == 2


def test_a_fabric_manager_that_was_restarted_is_connected_to_anew(mock: MockFabric, manager: FabricManager) -> None:
    manager.activate(LEFT)
    mock.start()
    assert not any(one.is_active for one in manager.partitions())
    assert mock.calls()["fmConnect"] == 2


def test_a_fabric_manager_that_is_away_is_a_temporary_error(mock: MockFabric, manager: FabricManager) -> None:
    manager.partitions()
    mock.stop()
    with pytest.raises(FabricError, match=r"no connection to Fabric Manager \(-9\)") as away:
        manager.partitions()
    assert away.value.code == NO_CONNECTION
    assert away.value.is_temporary
    mock.start()
    assert manager.partitions()


@pytest.mark.parametrize(
    ("function", "code", "text"),
    [
        ("fmConnect", -22, "not ready"),
        ("fmGetSupportedFabricPartitions", -3, "not supported"),
        ("fmGetSupportedFabricPartitions", -99, "unknown error"),
    ],
)
def test_refusals_name_function_and_cause(
    mock: MockFabric, manager: FabricManager, function: str, code: int, text: str
) -> None:
    mock.set_faults((function, code, 1))
    with pytest.raises(FabricError, match=rf"{function}.*: {text} \({code}\)"):
        manager.partitions()


def test_a_list_of_another_abi_is_refused(mock: MockFabric, manager: FabricManager, tmp_path: Path) -> None:
    long = FabricManager(lambda: str(native(LIBRARY)), FabricAddress("/" + "x" * 300))
    with pytest.raises(FabricError, match="over 255 bytes"):
        long.partitions()


@pytest.mark.parametrize("what", ["missing", "no library", "other functions"])
def test_a_library_that_cannot_be_used_is_named(tmp_path: Path, mock: MockFabric, what: str) -> None:
    def library() -> str:
        if what == "missing":
            raise DriverFileMissing(LIBRARY, "/driver")
        if what == "no library":
            (tmp_path / "text.so").write_text("text")
            return str(tmp_path / "text.so")
        return str(shutil.copy(native("libnvidia-ml.so.1"), tmp_path / "other.so"))

    with pytest.raises(FabricError, match=r"libnvfm\.so cannot be used: ") as unusable:
        FabricManager(library, FabricAddress(str(mock.socket))).partitions()
    assert not unusable.value.is_temporary


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, FabricAddress("/driver/run/nvidia-fabricmanager/socket")),
        ({"NVIDIA_FABRICMANAGER_UNIX_SOCKET": ""}, FabricAddress("/driver/run/nvidia-fabricmanager/socket")),
        ({"NVIDIA_FABRICMANAGER_UNIX_SOCKET": "/s"}, FabricAddress("/s")),
        ({"NVIDIA_FABRICMANAGER_ADDRESS": ""}, FabricAddress("127.0.0.1", is_socket=False)),
        (
            {"NVIDIA_FABRICMANAGER_ADDRESS": "10.0.0.7", "NVIDIA_FABRICMANAGER_UNIX_SOCKET": "/s"},
            FabricAddress("10.0.0.7", is_socket=False),
        ),
    ],
)
def test_the_address_is_the_go_drivers(environ: dict[str, str], address: FabricAddress) -> None:
    assert fabric_address(DriverRoot("/driver", "/driver"), environ) == address


@pytest.mark.parametrize(
    ("file", "content", "is_fabric"),
    [
        ("/host-root/proc/driver/nvidia-nvswitch/devices/0000:c0:00.0", "", True),
        ("/proc/driver/nvidia-nvswitch/devices/0000:c0:00.0", "", True),
        ("/host-root/sys/class/infiniband/mlx5_0/device/vpd", "..SW_MNG..", True),
        ("/sys/class/infiniband/mlx5_0/device/vpd", "..SW_MNG..", True),
        ("/sys/class/infiniband/mlx5_0/device/vpd", "a network card", False),
        ("/sys/class/infiniband/mlx5_0/node_guid", "", False),
        ("/proc/cpuinfo", "", False),
    ],
)
def test_a_fabric_is_found_with_and_without_the_hosts_root(
    tmp_path: Path, file: str, content: str, is_fabric: bool
) -> None:
    host = FakeHost(tmp_path)
    host.write(file, content)
    assert has_fabric(host, driver_root(host, "/driver", {}), "/host-root", {}) is is_fabric
    mocked = {"ALT_PROC_DEVICES_PATH": "/devices"}
    assert not has_fabric(host, driver_root(host, "/driver", mocked), "/host-root", mocked)
