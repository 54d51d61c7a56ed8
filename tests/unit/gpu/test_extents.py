"""Which GPU an entry holds, under whatever name: by its MIG devices, passed through, or renumbered."""

from __future__ import annotations

import pytest

from nvdra.checkpoint import Checkpoint
from nvdra.claims import Ready, Refuse
from nvdra.gpu import from_scan
from nvdra.gpu.unpublished import withdrawn
from nvdra.gpu.vfio import vfio_uuid
from tests.unit.claims.world import claim, passed_through, plan, prepared, unsupported
from tests.unit.gpu import scans


def conflicting(device: str, other: str) -> Refuse:
    return Refuse(
        f"unable to prepare claim new: requested device {device} is already allocated to different claim {other}"
    )


def test_a_gpu_is_held_by_its_mig_devices():
    checkpoint = Checkpoint("boot", {"c1": unsupported(claim("c1", "gpu-2-mig-1g5gb-19-0"), "mig")})
    assert plan(claim("new", "gpu-2"), checkpoint) == conflicting("gpu-2", "c1")
    assert isinstance(plan(claim("new", "gpu-1"), checkpoint), Ready)
    assert withdrawn(scans.inventory(), checkpoint) == {"gpu-2"}


def test_a_gpu_is_held_by_its_passed_through_twin():
    checkpoint = Checkpoint("boot", {"c1": passed_through(claim("c1", "gpu-vfio-5"), vfio_uuid("0000:03:00.0"))})
    assert plan(claim("new", "gpu-2"), checkpoint) == conflicting("gpu-2", "c1")
    assert isinstance(plan(claim("new", "gpu-5"), checkpoint), Ready)
    assert withdrawn(scans.inventory(), checkpoint) == {"gpu-2"}


@pytest.mark.parametrize(
    ("address", "uuid"),
    [
        ("0000:00:06.0", "0bb95950-133a-5a45-b03a-84e93e2908fd"),
        ("0000:9f:00.0", "0513c7cd-28fc-5cdf-a96c-8f3b5fea5b24"),
    ],
)
def test_the_uuid_of_a_passed_through_gpu_is_made_from_its_address(address, uuid):
    assert vfio_uuid(address) == uuid


# --- names that moved ---


def test_a_name_whose_gpu_changed_is_held_back_until_unprepared():
    checkpoint = prepared(claim("c1", "gpu-0"))
    swapped = from_scan(scans.node_scan(scans.gpu_scan(0, uuid="GPU-new"), scans.gpu_scan(1)), {})
    assert withdrawn(swapped, checkpoint) == {"gpu-0"}
    assert plan(claim("new", "gpu-0"), checkpoint, inventory=swapped) == conflicting("gpu-0", "c1")
    assert withdrawn(swapped, Checkpoint("boot")) == frozenset()


def test_a_claimed_gpu_under_a_new_name_is_held_back_too():
    checkpoint = prepared(claim("c1", "gpu-0"))
    renamed = from_scan(
        scans.node_scan(scans.gpu_scan(0, uuid=scans.uuid_of(1)), scans.gpu_scan(1, uuid=scans.uuid_of(0))), {}
    )
    assert withdrawn(renamed, checkpoint) == {"gpu-0", "gpu-1"}
    assert plan(claim("new", "gpu-1"), checkpoint, inventory=renamed) == conflicting("gpu-1", "c1")


def test_an_administrator_s_gpu_under_a_new_name_keeps_nobody_away():
    checkpoint = prepared(claim("c1", {"device": "gpu-0", "adminAccess": True}))
    renamed = from_scan(scans.node_scan(scans.gpu_scan(7, uuid=scans.uuid_of(0))), {})
    assert isinstance(plan(claim("new", "gpu-7"), checkpoint, inventory=renamed), Ready)


def test_nothing_is_held_back_where_nothing_moved():
    checkpoint = prepared(claim("c1", "gpu-0"), claim("c2", "gpu-1"))
    assert withdrawn(scans.inventory(), checkpoint) == frozenset()
    assert withdrawn(scans.inventory(0), checkpoint) == frozenset()


def test_a_gpu_with_admin_access_under_a_new_name_keeps_nobody_away():
    checkpoint = prepared(claim("c1", {"device": "gpu-0", "adminAccess": True}))
    renamed = from_scan(scans.node_scan(scans.gpu_scan(7, uuid=scans.uuid_of(0))), {})
    assert isinstance(plan(claim("new", "gpu-7"), checkpoint, inventory=renamed), Ready)
    assert withdrawn(renamed, checkpoint) == frozenset()


def test_a_partition_of_another_release_with_admin_access_keeps_nobody_away():
    one = claim("c1", {"device": "gpu-2-mig-1g5gb-19-0", "adminAccess": True})
    checkpoint = Checkpoint("boot", {"c1": unsupported(one, "mig")})
    assert isinstance(plan(claim("new", "gpu-2"), checkpoint), Ready)
    assert withdrawn(scans.inventory(), checkpoint) == frozenset()
