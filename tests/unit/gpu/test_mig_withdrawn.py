"""What is held back from publication because of partitions that nobody here made, or that are not what they were."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nvdra import claims
from nvdra.checkpoint import Checkpoint
from nvdra.gpu import Gpu
from nvdra.gpu.partitions import unmanaged_partitions
from nvdra.gpu.unpublished import withdrawn
from tests.unit.claims import world
from tests.unit.claims.world import claim, h200s, mig_prepared, partition, started
from tests.unit.gpu.scans import h200_scan, instance

ONE, TWO, THREE = partition("1g18gb", 19, 0), partition("2g35gb", 14, 2), partition("3g71gb", 9, 4)
NONE = Checkpoint("boot")


def unmanaged(node, checkpoint) -> list[tuple[int, int]]:
    return [(seen.profile_id, seen.start) for seen in unmanaged_partitions(node, checkpoint)]


def test_what_overlaps_an_unmanaged_partition_is_held_back_until_it_goes():
    node = h200s(h200_scan(0, instance(14, 2, 2)), h200_scan(1))
    assert unmanaged(node, NONE) == [(14, 2)]
    unpublished = withdrawn(node, NONE)
    assert {"gpu-0", TWO, partition("1g18gb", 19, 3), partition("4g71gb", 5, 0)} <= unpublished
    assert not {ONE, THREE, "gpu-1", partition("2g35gb", 14, 2, minor=1)} & unpublished
    assert withdrawn(h200s(h200_scan(0, mig_mode=(1, 1)), h200_scan(1)), NONE) == frozenset()


PLACEMENTS = st.lists(st.sampled_from([(19, start, 1) for start in range(7)]), unique=True)


@given(PLACEMENTS, PLACEMENTS)
def test_only_partitions_without_an_entry_in_any_state_unpublish_overlapping_devices(theirs, ours):
    node = h200s(h200_scan(0, *(instance(*placement) for placement in {*theirs, *ours})))
    named = [claim(f"c{start}", partition("1g18gb", 19, start)) for _, start, _ in ours]
    entries = {one.ref.uid: started(one) for one in named[::2]}
    entries |= dict(mig_prepared(*named[1::2]).entries)
    checkpoint = Checkpoint("boot", entries)
    taken = {start for _, start, _ in theirs} - {start for _, start, _ in ours}
    assert {start for _, start in unmanaged(node, checkpoint)} == taken
    assert withdrawn(node, checkpoint) == {
        name
        for name, device in node.devices.items()
        if taken and (isinstance(device, Gpu) or taken & set(range(device.start, device.start + device.size)))
    }


def test_a_half_made_partition_of_nobody_is_somebody_else_s_too():
    assert unmanaged(h200s(h200_scan(0, instance(14, 2, 2, compute=None))), NONE) == [(14, 2)]


def test_a_claim_s_place_with_another_profile_on_it_is_not_the_claim_s():
    checkpoint = mig_prepared(claim("c1", ONE))
    assert unmanaged(h200s(h200_scan(0, instance(20, 0, 1))), checkpoint) == [(20, 0)]


def test_a_partition_of_a_gpu_with_another_number_now_is_still_the_claim_s():
    checkpoint = mig_prepared(claim("c1", ONE))
    moved = h200s(h200_scan(0, uuid="GPU-new"), h200_scan(3, instance(19, 0, 1), uuid=h200_scan().uuid))
    assert unmanaged(moved, checkpoint) == []
    # And the GPU that has the number now got nothing of it.
    swapped = h200s(h200_scan(0, instance(19, 0, 1), uuid="GPU-new"), h200_scan(3, uuid=h200_scan().uuid))
    assert unmanaged(swapped, checkpoint) == [(19, 0)]


def test_partitions_made_beforehand_are_nobody_s_business_without_the_gate():
    node = h200s(h200_scan(0, instance(19, 0, 1)), dynamic=False)
    assert unmanaged(node, NONE) == []
    assert withdrawn(node, NONE) == frozenset()


def test_a_partition_that_was_made_anew_under_a_claim_is_held_back():
    (seen,) = h200_scan(0, instance(19, 0, 1)).mig.instances
    node = h200s(h200_scan(0, seen, instance(19, 1, 1)), dynamic=False)
    checkpoint = world.prepared(claim("c1", ONE), inventory=node)
    assert withdrawn(node, checkpoint) == frozenset()
    anew = replace(seen, compute=(replace(seen.compute[0], uuid="MIG-new"),))
    assert withdrawn(h200s(h200_scan(0, anew), dynamic=False), checkpoint) == {ONE}


def test_a_partition_made_beforehand_under_a_new_name_is_held_back_under_both():
    checkpoint = world.prepared(claim("c1", ONE), inventory=h200s(h200_scan(0, instance(19, 0, 1)), dynamic=False))
    (seen,) = h200_scan(0, instance(19, 0, 1)).mig.instances
    renumbered = h200s(h200_scan(2, seen), dynamic=False)
    assert withdrawn(renumbered, checkpoint) == {partition("1g18gb", 19, 0, minor=2)}


def test_a_partition_is_told_in_words_that_find_it():
    (two, one) = unmanaged_partitions(
        h200s(h200_scan(0, instance(14, 2, 2, gi_id=7), instance(19, 5, 1, gi_id=9))), NONE
    )
    uuid = h200_scan().uuid
    assert str(two) == f"GPU instance 7 (profile 14, memory slices 2 to 3) of gpu-0 ({uuid})"
    assert str(one) == f"GPU instance 9 (profile 19, memory slice 5) of gpu-0 ({uuid})"


def test_prepared_devices_are_counted_by_type():
    checkpoint = mig_prepared(claim("c1", ONE, TWO), claim("c2", "gpu-1"), inventory=h200s(h200_scan(0), h200_scan(1)))
    begun = started(claim("c3", THREE))
    checkpoint = Checkpoint("boot", {**checkpoint.entries, "c3": begun})
    assert claims.device_types(checkpoint, world.DRIVER.device_type) == {"mig": 2, "gpu": 1}
