"""Fabric partitions as values: what lists are refused, what a GPU says of them, which one a set of GPUs is."""

from __future__ import annotations

import pytest

from nvdra.gpu.fabric_topology import FabricPartition, FabricTopology, OddTopology, checked

BOARD = (FabricPartition(0, (1, 2, 3, 4)), FabricPartition(1, (1, 2)), FabricPartition(2, (3, 4)))


def test_partitions_are_in_the_order_of_their_ids() -> None:
    assert checked(BOARD[::-1]) == BOARD


@pytest.mark.parametrize(
    ("odd", "text"),
    [
        (FabricPartition(2, (1,)), "partition id 2 is there 2 times"),
        (FabricPartition(7, ()), "partition 7 has no GPU"),
        (FabricPartition(7, (1, 2, 1)), r"partition 7 has a GPU twice: modules \[1, 2, 1\]"),
    ],
)
def test_partitions_that_contradict_each_other_are_refused(odd: FabricPartition, text: str) -> None:
    with pytest.raises(OddTopology, match=text):
        checked([*BOARD, odd])


@pytest.mark.parametrize(
    ("modules", "partition"),
    [((2, 1), 1), ((1, 2, 3, 4), 0), ((1,), None), ((2, 3), None), ((), None), ((1, 2, 3, 4, 5), None), ((0,), None)],
)
def test_only_the_very_set_of_gpus_is_a_partition(modules: tuple[int, ...], partition: int | None) -> None:
    found = FabricTopology(BOARD).matching(modules)
    assert (None if found is None else found.id) == partition


@pytest.mark.parametrize(
    ("module", "attributes"),
    [
        (3, {"gpuModuleID": {"int": 3}, "partition4": {"int": 0}, "partition2": {"int": 2}}),
        (9, {"gpuModuleID": {"int": 9}}),
        (0, {}),
        (None, {}),
    ],
)
def test_a_gpu_names_its_partitions(module: int | None, attributes: dict[str, dict[str, int]]) -> None:
    modules = {} if module is None else {"0000:01:00.0": module}
    assert FabricTopology(BOARD, modules).attributes("0000:01:00.0") == attributes


def test_of_two_partitions_of_one_size_no_attribute_names_either() -> None:
    both = FabricTopology((*BOARD, FabricPartition(3, (1, 4))), {"0000:01:00.0": 1})
    assert set(both.attributes("0000:01:00.0")) == {"gpuModuleID", "partition4"}
