"""Who holds which device: overlap, administrators, other releases' entries, names that moved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra import claims
from nvdra.checkpoint import Record
from nvdra.claims import Ready, Refuse
from nvdra.claims.place import vfio_uuid
from nvdra.devices import from_scan
from tests.unit.claims.world import claim, foreign, plan, prepared, sealed, started
from tests.unit.devices import scans


def held_by(device: str, other: str, uid: str = "new") -> Refuse:
    return Refuse(
        f"unable to prepare claim {uid}: requested device {device} is already allocated to different claim {other}"
    )


def test_a_device_of_another_claim_is_refused_by_the_holder_s_uid():
    assert plan(claim("new", "gpu-1", "gpu-0"), prepared(claim("c1", "gpu-0"))) == held_by("gpu-0", "c1")


def test_a_share_id_shares_nothing_while_sharing_is_off():
    share = {"device": "gpu-0", "shareID": "11111111-2222-3333-4444-555555555555"}
    assert plan(claim("new", share), prepared(claim("c1", share))) == held_by("gpu-0", "c1")


def test_a_claim_that_was_only_begun_holds_nothing():
    begun = Record("boot", {"c1": started(claim("c1", "gpu-0"))})
    assert isinstance(plan(claim("new", "gpu-0"), begun), Ready)


ADMIN = {"device": "gpu-0", "adminAccess": True}


@pytest.mark.parametrize(("first", "second"), [("gpu-0", ADMIN), (ADMIN, "gpu-0"), (ADMIN, ADMIN)])
def test_administrators_keep_nobody_away_and_are_kept_from_nothing(first, second):
    assert isinstance(plan(claim("new", second), prepared(claim("c1", first))), Ready)


def test_a_device_asked_for_twice_in_one_claim_does_not_overlap_itself():
    assert isinstance(plan(claim("new", ADMIN, "gpu-0", "gpu-0")), Ready)


def test_another_driver_s_device_of_the_same_name_holds_nothing():
    other = claim("c1", {"device": "gpu-0", "driver": "gpu.example.com"}, "gpu-1")
    assert isinstance(plan(claim("new", "gpu-0"), prepared(other)), Ready)


@given(st.sets(st.integers(0, 3), min_size=1), st.sets(st.integers(0, 3), min_size=1))
def test_overlap_is_symmetric_and_exactly_a_common_device(one, other):
    a = claim("a", *(f"gpu-{minor}" for minor in sorted(one)))
    b = claim("b", *(f"gpu-{minor}" for minor in sorted(other)))
    a_then_b, b_then_a = plan(b, prepared(a)), plan(a, prepared(b))
    assert isinstance(a_then_b, Refuse) == isinstance(b_then_a, Refuse) == bool(one & other)


# --- what other releases prepared ---


@pytest.mark.parametrize("kind", ["mps", "mig"])
def test_a_device_in_a_foreign_entry_is_held(kind):
    record = Record("boot", {"c1": foreign(claim("c1", "gpu-0"), kind)})
    assert plan(claim("new", "gpu-0"), record) == held_by("gpu-0", "c1")
    assert isinstance(plan(claim("new", "gpu-1"), record), Ready)


def test_a_gpu_is_held_by_its_mig_devices():
    record = Record("boot", {"c1": foreign(claim("c1", "gpu-2-mig-1g5gb-19-0"), "mig")})
    assert plan(claim("new", "gpu-2"), record) == held_by("gpu-2", "c1")
    assert isinstance(plan(claim("new", "gpu-1"), record), Ready)
    assert claims.withdrawn(scans.inventory(), record) == {"gpu-2"}


def test_a_gpu_is_held_by_its_passed_through_twin():
    record = Record("boot", {"c1": foreign(claim("c1", "gpu-vfio-5"), "vfio", vfio_uuid("0000:03:00.0"))})
    assert plan(claim("new", "gpu-2"), record) == held_by("gpu-2", "c1")
    assert isinstance(plan(claim("new", "gpu-5"), record), Ready)
    assert claims.withdrawn(scans.inventory(), record) == {"gpu-2"}


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
    record = prepared(claim("c1", "gpu-0"))
    swapped = from_scan(scans.node_scan(scans.gpu_scan(0, uuid="GPU-new"), scans.gpu_scan(1)), {})
    assert claims.withdrawn(swapped, record) == {"gpu-0"}
    assert plan(claim("new", "gpu-0"), record, inventory=swapped) == held_by("gpu-0", "c1")
    assert claims.withdrawn(swapped, Record("boot")) == frozenset()


def test_a_claimed_gpu_under_a_new_name_is_held_back_too():
    record = prepared(claim("c1", "gpu-0"))
    renamed = from_scan(
        scans.node_scan(scans.gpu_scan(0, uuid=scans.uuid_of(1)), scans.gpu_scan(1, uuid=scans.uuid_of(0))), {}
    )
    assert claims.withdrawn(renamed, record) == {"gpu-0", "gpu-1"}
    assert plan(claim("new", "gpu-1"), record, inventory=renamed) == held_by("gpu-1", "c1")


def test_an_administrator_s_gpu_under_a_new_name_keeps_nobody_away():
    record = prepared(claim("c1", ADMIN))
    renamed = from_scan(scans.node_scan(scans.gpu_scan(7, uuid=scans.uuid_of(0))), {})
    assert isinstance(plan(claim("new", "gpu-7"), record, inventory=renamed), Ready)
    assert claims.withdrawn(renamed, record) == frozenset()


def test_a_partition_of_another_release_s_administrator_keeps_nobody_away():
    one = claim("c1", {"device": "gpu-2-mig-1g5gb-19-0", "adminAccess": True})
    record = Record("boot", {"c1": foreign(one, "mig")})
    assert isinstance(plan(claim("new", "gpu-2"), record), Ready)
    assert claims.withdrawn(scans.inventory(), record) == frozenset()


def test_nothing_is_held_back_where_nothing_moved():
    record = prepared(claim("c1", "gpu-0"), claim("c2", "gpu-1"))
    assert claims.withdrawn(scans.inventory(), record) == frozenset()
    assert claims.withdrawn(scans.inventory(0), record) == frozenset()


# --- files whose record was lost ---


def test_a_device_of_an_unsettled_file_is_refused_to_others_only():
    unsettled = {"gpu-0": "c1"}
    assert plan(claim("new", "gpu-0"), unsettled=unsettled) == Refuse(
        "unable to prepare claim new: requested device gpu-0 may still be in use by claim c1: "
        "the checkpoint was lost and the API server has not said yet what became of that claim"
    )
    assert isinstance(plan(claim("c1", "gpu-0"), unsettled=unsettled), Ready)
    assert isinstance(plan(claim("new", "gpu-1"), unsettled=unsettled), Ready)


# --- reading allocations ---


@pytest.mark.parametrize("status", [b"{}", b'{"allocation":{"devices":{}}}', b'{"reservedFor":[]}'])
def test_a_status_without_results_allocates_nothing(status):
    assert claims.allocation(status) == claims.Allocation((), ())


def test_answers_are_the_recorded_devices():
    one = claim("c1", "gpu-1", "gpu-0")
    assert claims.answers(sealed(one).entry) == sealed(one).answers
    assert claims.answers(started(one)) == ()
