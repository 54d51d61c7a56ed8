"""What sweeps decide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvdra.api.claim import ClaimRef
from nvdra.checkpoint import Checkpoint
from nvdra.claims import reconcile
from nvdra.claims.reconcile import NOT_FOUND, Answer, Settled
from nvdra.gpu import Inventory
from tests.unit.claims import world
from tests.unit.claims.world import DRIVER, claim, prepared, sealed, started
from tests.unit.gpu import scans

ONE = claim("c1", "gpu-0")
TWO = claim("c2", "gpu-1")


def test_named_entries_are_asked_for_one_by_one_and_nameless_ones_by_a_list():
    checkpoint = prepared(ONE)
    of_the_go_driver = replace(sealed(TWO).entry, name="", namespace="")
    checkpoint = Checkpoint("boot", {**checkpoint.entries, "c2": of_the_go_driver, "c3": started(claim("c3", "gpu-2"))})
    assert reconcile.to_get(checkpoint) == (ClaimRef("ns", "claim-c1", "c1"), ClaimRef("ns", "claim-c3", "c3"))
    assert reconcile.nameless(checkpoint) == {"c2"}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (NOT_FOUND, "the claim is gone"),
        (Answer("c9", claim("c9", "gpu-0")), "the claim was replaced: its UID is c9 now"),
        (Answer("c9", None), "the claim was replaced: its UID is c9 now"),
        (Answer("c1", None), "the claim is not allocated any more"),
        (
            Answer("c1", claim("c1", {"device": "gpu-0", "pool": "node-b"})),
            "the claim is allocated no device of this node any more",
        ),
        (
            Answer("c1", claim("c1", {"device": "gpu-0", "driver": "nic.example.com"})),
            "the claim is allocated no device of this node any more",
        ),
        (Answer("c1", ONE), ""),
        (Answer("c1", claim("c1", "gpu-5")), ""),
    ],
)
def test_what_an_answer_means(answer, why):
    assert reconcile.stale("c1", answer, world.OURS, world.POOL) == why


def test_what_was_begun_goes_at_once_and_what_was_completed_on_the_second_sweep():
    checkpoint = Checkpoint("boot", {**prepared(ONE, TWO).entries, "c3": started(claim("c3", "gpu-2"))})
    found = {"c1", "c3", "gone-meanwhile"}
    assert reconcile.due(found, frozenset(), checkpoint) == {"c3"}
    assert reconcile.due(found, {"c1", "c2"}, checkpoint) == {"c1", "c3"}
    assert reconcile.due(set(), {"c1"}, checkpoint) == frozenset()


def test_a_file_without_entry_is_an_orphan():
    assert reconcile.orphans(["c9", "c1", "c8"], prepared(ONE)) == ("c8", "c9")


# --- files whose checkpoint was lost ---

FILES = {"c1": {"gpu-0"}, "c2": {"gpu-1"}}


def test_until_the_api_answers_every_device_is_kept():
    assert reconcile.settle(DRIVER, FILES, None, scans.inventory(), world.POOL) == Settled(
        {}, (), {"gpu-0": "c1", "gpu-1": "c2"}
    )


def test_a_claim_still_allocated_here_is_adopted_with_the_entry_of_a_new_prepare():
    found = reconcile.settle(DRIVER, FILES, {"c1": ONE, "c2": TWO}, scans.inventory(), world.POOL)
    assert found == Settled({"c1": sealed(ONE).entry, "c2": sealed(TWO).entry}, (), {})


@pytest.mark.parametrize(
    "now",
    [
        None,
        claim("c1", "gpu-5"),
        claim("c1", "gpu-0", "gpu-5"),
        claim("c1", {"device": "gpu-0", "pool": "node-b"}),
        claim("c1", {"device": "gpu-0", "driver": "nic.example.com"}),
    ],
)
def test_a_file_of_any_other_claim_is_an_orphan(now):
    found = reconcile.settle(
        DRIVER, {"c1": {"gpu-0"}}, {} if now is None else {"c1": now}, scans.inventory(), world.POOL
    )
    assert found == Settled({}, ("c1",), {})


def test_a_claim_is_adopted_whatever_its_config_asks_for():
    one = claim("c1", "gpu-0", config=[world.gpu_config({"sharing": {"strategy": "TimeSlicing"}})])
    found = reconcile.settle(DRIVER, {"c1": {"gpu-0"}}, {"c1": one}, scans.inventory(), world.POOL)
    assert list(found.adopted) == ["c1"]
    assert found.adopted["c1"].status == one.status


def test_devices_this_node_does_not_know_now_stay_unsettled():
    one = claim("c1", "gpu-0", "gpu-9")
    found = reconcile.settle(DRIVER, {"c1": {"gpu-0", "gpu-9"}}, {"c1": one}, scans.inventory(), world.POOL)
    assert found == Settled({}, (), {"gpu-0": "c1", "gpu-9": "c1"})
    unread = reconcile.settle(DRIVER, FILES, {"c1": ONE, "c2": TWO}, Inventory(unread="no driver"), world.POOL)
    assert unread.unsettled == {"gpu-0": "c1", "gpu-1": "c2"}


def test_a_device_of_another_driver_in_an_adopted_claim_is_none_of_ours():
    one = claim("c1", "gpu-0", {"device": "nic", "driver": "nic.example.com"})
    found = reconcile.settle(DRIVER, {"c1": {"gpu-0"}}, {"c1": one}, scans.inventory(), world.POOL)
    assert [device.device for group in found.adopted["c1"].prepared for device in group.devices] == ["gpu-0"]
