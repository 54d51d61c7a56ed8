"""Letting go of claims with partitions, and what a half-made one leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra import claims
from nvdra.checkpoint import Checkpoint
from nvdra.claims import Forget, NeedsSteps, Refuse, RollBackFirst, Teardown, TearDownFirst
from nvdra.gpu import Inventory, LeftOut
from nvdra.gpu.partitions import unmanaged_partitions
from nvdra.gpu.steps import CreatePartition
from tests.unit.claims import world
from tests.unit.claims.world import claim, h200s, mig_plan, mig_prepared, mig_release, partition, release, started
from tests.unit.gpu.scans import h200_scan, instance

ONE, THREE = partition("1g18gb", 19, 0), partition("3g71gb", 9, 4)
UUID = h200_scan().uuid
ADDRESS = "0000:00:06.0"
GPU = h200s().gpus[ADDRESS]
PREFIX = "unprepare devices failed for claim ns/claim-c1:c1"


def steps(outcome) -> tuple[CreatePartition, ...]:
    assert isinstance(outcome, TearDownFirst), outcome
    return outcome.teardown.steps


# --- completed claims ---


def test_a_partition_goes_with_its_claim():
    checkpoint = mig_prepared(claim("c1", ONE))
    entry = checkpoint.entries["c1"]
    step = CreatePartition(GPU, ONE, 19, 0, uuid="MIG-19-0")
    begun = replace(entry, state="PrepareStarted")
    assert mig_release(claim("c1", ONE), checkpoint) == TearDownFirst(Teardown((step,), blocks_others=True), begun)


def test_while_it_goes_the_checkpoint_keeps_what_there_is_to_undo():
    checkpoint = mig_prepared(claim("c1", ONE, name="train"))
    found = mig_release(claim("c1", ONE, name="train"), checkpoint)
    assert isinstance(found, TearDownFirst)
    assert (found.started.name, found.started.namespace) == ("train", "ns")
    again = Checkpoint("boot", {"c1": found.started})
    assert mig_release(claim("c1", ONE, name="train"), again) == found


def test_an_entry_of_the_go_driver_gets_the_name_that_kubelet_says():
    checkpoint = mig_prepared(claim("c1", ONE))
    nameless = replace(checkpoint.entries["c1"], name="", namespace="")
    found = mig_release(claim("c1", ONE), Checkpoint("boot", {"c1": nameless}))
    assert (found.started.name, found.started.namespace) == ("claim-c1", "ns")


DEVICES = st.lists(st.sampled_from(sorted(h200s().devices)), max_size=6, unique=True)


@given(DEVICES)
def test_letting_go_takes_away_exactly_what_preparing_made(wanted):
    node = h200s(h200_scan(0), h200_scan(1))
    one = claim("c1", "gpu-1", *(name.replace("gpu-0-", "gpu-0-") for name in wanted if name != "gpu-0"))
    found = mig_plan(one, inventory=node)
    made = [step.spec.name for step in found.steps.apply] if isinstance(found, NeedsSteps) else []
    sealed = world.carried_out(found)
    released = mig_release(one, Checkpoint("boot", {"c1": sealed.entry}), inventory=node)
    gone = {step.device: step.uuid for step in steps(released)} if made else {}
    assert made or released == Forget()
    assert gone == {answer.device: answer.uuid for answer in sealed.answers if answer.mig is not None}
    assert sorted(gone) == sorted(made)


def test_an_admin_claim_of_another_release_leaves_a_used_partition():
    user, admin = claim("c1", ONE, THREE), claim("c2", ONE)
    entries = mig_prepared(user).entries | mig_prepared(admin).entries
    checkpoint = world.administered(Checkpoint("boot", entries), admin)
    assert mig_release(admin, checkpoint) == Forget(blocks_others=True)
    alone = Checkpoint("boot", {"c2": checkpoint.entries["c2"]})
    assert [step.device for step in steps(mig_release(admin, alone))] == [ONE]


def test_a_partition_goes_with_its_user_whatever_administrators_look_at_it():
    user, admin = claim("c1", ONE, THREE), claim("c2", ONE)
    entries = mig_prepared(user).entries | mig_prepared(admin).entries
    checkpoint = world.administered(Checkpoint("boot", entries), admin)
    assert [step.device for step in steps(mig_release(user, checkpoint))] == [ONE, THREE]


def test_an_administrator_s_claim_of_a_gpu_is_let_go_of_without_touching_it():
    sees = claim("c1", {"device": "gpu-0", "adminAccess": True})
    assert mig_release(sees, mig_prepared(sees, claim("c2", ONE))) == Forget()


def test_a_device_of_another_driver_by_the_same_name_shares_nothing():
    other = claim("c2", {"device": ONE, "driver": "gpu.example.com"})
    checkpoint = mig_prepared(claim("c1", ONE))
    checkpoint = Checkpoint("boot", {**checkpoint.entries, "c2": started(other)})
    assert [step.device for step in steps(mig_release(claim("c1", ONE), checkpoint))] == [ONE]


def test_a_partition_that_an_administrator_made_beforehand_stays():
    node = h200s(h200_scan(0, instance(19, 0, 1)), dynamic=False)
    one = claim("c1", ONE)
    checkpoint = world.prepared(one, inventory=node)
    assert release(one, checkpoint, inventory=node) == Forget(blocks_others=True)
    guest = h200s(h200_scan(0, instance(19, 0, 1), virtualization_mode=2))
    assert mig_release(one, checkpoint, inventory=guest) == Forget(blocks_others=True)


# --- where the GPU is now ---


def test_the_checkpoint_says_which_gpu_whatever_its_number_is_now():
    checkpoint = mig_prepared(claim("c1", ONE))
    renumbered = h200s(h200_scan(0, uuid="GPU-new"), h200_scan(5, uuid=UUID))
    (step,) = steps(mig_release(claim("c1", ONE), checkpoint, inventory=renumbered))
    assert (step.gpu.minor, step.gpu.uuid, step.profile_id, step.start) == (5, UUID, 19, 0)


def test_where_the_checkpoint_says_no_gpu_the_partition_s_name_does():
    checkpoint = mig_prepared(claim("c1", ONE))
    (group,) = checkpoint.entries["c1"].prepared
    (device,) = group.devices
    unsaid = replace(device, info=replace(device.mig, parent_uuid=""))
    entry = replace(checkpoint.entries["c1"], prepared=(replace(group, devices=(unsaid,)),))
    (step,) = steps(mig_release(claim("c1", ONE), Checkpoint("boot", {"c1": entry})))
    assert (step.gpu, step.device) == (GPU, ONE)


@pytest.mark.parametrize("is_begun", [False, True])
@pytest.mark.parametrize(
    ("node", "why"),
    [
        (Inventory(unread="no driver is loaded"), "no driver is loaded"),
        (
            h200s(h200_scan(1), left_out=(LeftOut(0, 0, UUID, "nvmlDeviceGetName", 15, "GPU is lost"),)),
            "it is not on this node",
        ),
    ],
)
def test_a_gpu_that_cannot_be_read_is_looked_for_once_more_and_waited_for(node, why, is_begun):
    one = claim("c1", ONE)
    checkpoint = Checkpoint("boot", {"c1": started(one)}) if is_begun else mig_prepared(one)
    found = mig_release(one, checkpoint, inventory=node)
    assert isinstance(found, Refuse)
    assert found.rescan
    assert f"the GPU of {ONE} cannot be read now: " in found.reason
    assert why in found.reason or "GPU is lost" in found.reason


def test_a_gpu_that_is_gone_for_good_took_its_partitions_with_it():
    checkpoint = mig_prepared(
        claim("c1", ONE, partition("1g18gb", 19, 0, minor=1)), inventory=h200s(h200_scan(0), h200_scan(1))
    )
    left = h200s(h200_scan(1))
    assert [step.gpu.minor for step in steps(mig_release(claim("c1"), checkpoint, inventory=left))] == [1]
    assert mig_release(claim("c1"), checkpoint, inventory=h200s(h200_scan(7))) == Forget(blocks_others=True)


def test_a_gpu_that_is_not_offered_for_another_reason_is_not_the_one_that_is_gone():
    checkpoint = mig_prepared(claim("c1", ONE))
    # A virtual GPU with MIG mode on and nothing made: read, and not offered.
    node = h200s(h200_scan(1, mig_mode=(1, 1), virtualization_mode=2))
    assert [left.device for left in node.not_published] == ["gpu-1"]
    assert mig_release(claim("c1", ONE), checkpoint, inventory=node) == Forget(blocks_others=True)


# --- claims that were begun ---


def test_of_a_claim_that_was_begun_every_partition_it_names_is_looked_for():
    one = claim("c1", THREE, ONE, "gpu-0")
    found = mig_release(one, Checkpoint("boot", {"c1": started(one)}))
    assert steps(found) == (CreatePartition(GPU, ONE, 19, 0), CreatePartition(GPU, THREE, 9, 4))
    assert found.started == started(one)


def test_two_claims_that_were_begun_on_one_partition_go_one_after_the_other():
    """As the Go driver may leave them: it looks at completed claims alone."""
    one, other = claim("c1", ONE), claim("c2", ONE)
    checkpoint = Checkpoint("boot", {"c1": started(one), "c2": started(other)})
    assert mig_release(one, checkpoint) == mig_release(other, checkpoint) == Forget(blocks_others=True)
    # Whichever is asked for first leaves, and then the other is undone.
    assert mig_plan(one, checkpoint) == RollBackFirst(one.ref, checkpoint.entries["c1"])
    assert mig_plan(other, checkpoint) == RollBackFirst(other.ref, checkpoint.entries["c2"])
    last = Checkpoint("boot", {"c2": checkpoint.entries["c2"]})
    assert [step.device for step in steps(mig_release(other, last))] == [ONE]


def test_rolling_back_a_claim_keeps_the_partition_of_a_completed_claim_there():
    one = claim("c1", ONE)
    checkpoint = mig_prepared(one)
    begun = claim("c2", {"device": ONE, "adminAccess": True}, THREE)
    checkpoint = Checkpoint("boot", {**checkpoint.entries, "c2": started(begun)})
    assert [step.device for step in steps(mig_release(begun, checkpoint))] == [THREE]


# --- without the gate ---


def test_without_the_gate_nothing_is_destroyed():
    one = claim("c1", ONE)
    assert release(one, mig_prepared(one), inventory=h200s()) == Forget(blocks_others=True)
    assert release(one, Checkpoint("boot", {"c1": started(one)}), inventory=h200s()) == Forget(
        (f"claim ns/claim-c1:c1 was begun on {ONE}: gate DynamicMIG is off, so what stands there stays",),
        blocks_others=True,
    )


# --- claims of a lost checkpoint ---


def test_a_claim_of_a_lost_checkpoint_is_taken_over_with_the_partition_that_stands():
    one = claim("c1", THREE)
    node = h200s(h200_scan(0, instance(9, 4, 4, gi_id=2)))
    settled = claims.settle(world.DRIVER, {"c1": {THREE}}, {"c1": one}, node, world.POOL)
    (answer,) = claims.answers(settled.adopted["c1"])
    assert (answer.uuid, answer.mig.gi_id, answer.mig.parent_uuid) == ("MIG-9-4", 2, UUID)
    assert (settled.orphans, settled.unsettled) == ((), {})
    checkpoint = Checkpoint("boot", dict(settled.adopted))
    assert unmanaged_partitions(node, checkpoint) == ()
    assert [step.uuid for step in steps(mig_release(one, checkpoint, inventory=node))] == ["MIG-9-4"]


@pytest.mark.parametrize("live", [(), (instance(9, 4, 4, compute=None),), (instance(19, 4, 1),)])
def test_a_claim_of_a_lost_checkpoint_whose_partition_is_not_there_keeps_its_place(live):
    node = h200s(h200_scan(0, *live, mig_mode=(1, 1)))
    settled = claims.settle(world.DRIVER, {"c1": {THREE}}, {"c1": claim("c1", THREE)}, node, world.POOL)
    assert (dict(settled.adopted), settled.orphans, settled.unsettled) == ({}, (), {THREE: "c1"})
