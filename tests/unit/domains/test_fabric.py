"""Every row of the fabric's table, strict and lenient."""

from __future__ import annotations

from uuid import UUID

import pytest

from nvdra.domains.fabric import Fabric, GpuFabric, driver_too_old, fabric

CLUSTER = UUID("9f410827-489f-46fd-8203-51266ca08eb7")
OTHER = UUID("00000000-0000-4000-8000-000000000001")


def gpu(
    index: int = 0,
    *,
    code: int = 0,
    state: int = 3,
    status: int = 0,
    clique: int = 32766,
    cluster: UUID = CLUSTER,
) -> GpuFabric:
    return GpuFabric(index, f"GPU-{index}", code, "its text", cluster.bytes, status, clique, state)


NONE = ""
HERE = f"{CLUSTER}.32766"


@pytest.mark.parametrize(
    ("one", "strict", "lenient"),
    [
        (gpu(code=3), NONE, NONE),
        (gpu(code=999), "failed to get GPU fabric info (device 0/GPU-0): its text (NVML code 999)", None),
        (gpu(state=0), NONE, NONE),
        (gpu(state=1), "NVLink fabric not attached (device 0/GPU-0): state=1", NONE),
        (gpu(state=2), "NVLink fabric not attached (device 0/GPU-0): state=2", NONE),
        (gpu(status=5), "NVLink fabric registration error (device 0/GPU-0): status=5", NONE),
        (gpu(cluster=UUID(int=0)), NONE, NONE),
        (gpu(), HERE, HERE),
    ],
)
def test_one_gpu(one: GpuFabric, strict: str, lenient: str | None) -> None:
    for is_strict, wanted in ((True, strict), (False, strict if lenient is None else lenient)):
        found = fabric([one], is_strict=is_strict)
        if wanted in (NONE, HERE):
            assert (found.clique, found.unready) == (wanted, "")
        else:
            assert found.clique == ""
            assert found.unready.startswith(wanted)


def test_a_node_that_is_a_fabric_of_its_own_may_be_unattached() -> None:
    assert fabric([gpu(state=1)], is_strict=True, single_node=True) == Fabric()


def test_all_gpus_must_agree() -> None:
    two_clusters = fabric([gpu(), gpu(1, cluster=OTHER)], is_strict=False)
    assert "unexpected number of unique ClusterUUIDs found on devices" in two_clusters.unready
    two_cliques = fabric([gpu(), gpu(1, clique=1)], is_strict=False)
    assert "unexpected number of unique CliqueIDs found on devices: 1, 32766" in two_cliques.unready


def test_gpus_without_fabric_do_not_count() -> None:
    found = fabric([gpu(code=3), gpu(1), gpu(2)], is_strict=True)
    assert found.clique == HERE
    assert found.notes[0] == f"identified fabric clique UUID/ID (device 1/GPU-1): {CLUSTER}/32766"
    assert fabric([], is_strict=True) == Fabric()


@pytest.mark.parametrize(
    ("version", "is_enough"),
    [("570.158.01", True), ("580.65.06", True), ("570.133.20", False), ("565.57.01", False), ("570.158", False)],
)
def test_dns_names_need_a_driver(version: str, is_enough: bool) -> None:
    assert (driver_too_old(version) == "") == is_enough
