"""Who holds which device: overlap, administrators, other releases' entries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra import claims
from nvdra.checkpoint import Checkpoint
from nvdra.claims import Ready, Refuse
from tests.unit.claims import world
from tests.unit.claims.world import claim, plan, prepared, sealed, started, unsupported


def conflicting(device: str, other: str, uid: str = "new") -> Refuse:
    return Refuse(
        f"unable to prepare claim {uid}: requested device {device} is already allocated to different claim {other}"
    )


def test_a_device_of_another_claim_is_refused_by_the_holder_s_uid():
    assert plan(claim("new", "gpu-1", "gpu-0"), prepared(claim("c1", "gpu-0"))) == conflicting("gpu-0", "c1")


def test_a_share_id_shares_nothing_while_sharing_is_off():
    share = {"device": "gpu-0", "shareID": "11111111-2222-3333-4444-555555555555"}
    assert plan(claim("new", share), prepared(claim("c1", share))) == conflicting("gpu-0", "c1")


def test_a_claim_that_was_only_begun_holds_nothing():
    begun = Checkpoint("boot", {"c1": started(claim("c1", "gpu-0"))})
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
    checkpoint = Checkpoint("boot", {"c1": unsupported(claim("c1", "gpu-0"), kind)})
    assert plan(claim("new", "gpu-0"), checkpoint) == conflicting("gpu-0", "c1")
    assert isinstance(plan(claim("new", "gpu-1"), checkpoint), Ready)


# --- files whose checkpoint was lost ---


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
    assert claims.allocation(status, world.OURS) == claims.Allocation((), ())


def test_answers_are_the_recorded_devices():
    one = claim("c1", "gpu-1", "gpu-0")
    assert claims.answers(sealed(one).entry) == sealed(one).answers
    assert claims.answers(started(one)) == ()
