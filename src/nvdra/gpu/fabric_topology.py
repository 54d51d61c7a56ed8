"""Fabric Manager's partitions of a node: sets of GPUs whose NVLink fabric is set up together. Values only.

Fabric Manager and NVML know a GPU by its module id, its place on the board.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_NO_MODULES: Mapping[str, int] = MappingProxyType({})


class OddTopology(ValueError):
    """Partitions that contradict each other; the text says how."""


@dataclass(frozen=True, slots=True)
class FabricPartition:
    """One partition, with the module ids of its GPUs."""

    id: int
    modules: tuple[int, ...]
    is_active: bool = False


@dataclass(frozen=True, slots=True)
class FabricTopology:
    """What is known of the partitions of a node with a fabric.

    modules   module ids by PCI address, also of GPUs that have left their driver since
    unread    why Fabric Manager's partitions are not known; "" if they are
    """

    partitions: tuple[FabricPartition, ...] = ()
    modules: Mapping[str, int] = field(default_factory=lambda: _NO_MODULES)
    unread: str = ""

    def matching(self, modules: Collection[int]) -> FabricPartition | None:
        """The partition with exactly these GPUs."""
        wanted = set(modules)
        return next((one for one in self.partitions if wanted and set(one.modules) == wanted), None)

    def attributes(self, address: str) -> dict[str, dict[str, Any]]:
        """Attributes of the GPU: its module id, and for each size the one partition of that size that it is in."""
        module = self.modules.get(address)
        if not module:
            return {}
        own = [one for one in self.partitions if module in one.modules]
        sizes = Counter(len(one.modules) for one in own)
        ids = {f"partition{len(one.modules)}": {"int": one.id} for one in own if sizes[len(one.modules)] == 1}
        return {"gpuModuleID": {"int": module}, **ids}


def checked(partitions: Sequence[FabricPartition]) -> tuple[FabricPartition, ...]:
    """The partitions by id. Raises OddTopology."""
    ids = Counter(one.id for one in partitions)
    if twice := sorted(number for number, count in ids.items() if count > 1):
        raise OddTopology(f"partition id {twice[0]} is there {ids[twice[0]]} times")
    for one in partitions:
        if not one.modules:
            raise OddTopology(f"partition {one.id} has no GPU")
        if len(set(one.modules)) < len(one.modules):
            raise OddTopology(f"partition {one.id} has a GPU twice: modules {list(one.modules)}")
    return tuple(sorted(partitions, key=lambda one: one.id))
