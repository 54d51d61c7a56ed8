"""A Fabric Manager of a made-up node: partitions in memory, refusals on demand."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import replace

from nvdra.host.fabric_manager import BAD_PARAM, IN_USE, FabricError, ListedPartition


class FakeFabric:
    """Activates and deactivates like Fabric Manager; state outlives the programs that ask.

    calls    by name
    faults   codes that the next calls of a name get
    """

    def __init__(self, partitions: Iterable[tuple[int, Iterable[int]]]) -> None:
        self._partitions = {number: ListedPartition(number, False, tuple(modules)) for number, modules in partitions}
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, deque[int]] = {}

    @property
    def active(self) -> set[int]:
        return {one.id for one in self._partitions.values() if one.is_active}

    def fail(self, call: str, *codes: int) -> None:
        """The next calls of this name ("partitions", "activate", "deactivate") get these codes."""
        self.faults.setdefault(call, deque()).extend(codes)

    def forget(self, partition: int) -> None:
        """Fabric Manager does not know the partition any more."""
        del self._partitions[partition]

    def partitions(self) -> tuple[ListedPartition, ...]:
        self._enter("partitions")
        return tuple(self._partitions.values())

    def activate(self, partition: int) -> None:
        self._enter("activate")
        one = self._find(partition)
        others = (other for other in self._partitions.values() if other.is_active)
        if any(set(one.modules) & set(other.modules) for other in others):
            raise FabricError("activate", IN_USE)
        self._partitions[partition] = replace(one, is_active=True)

    def deactivate(self, partition: int) -> None:
        self._enter("deactivate")
        one = self._find(partition)
        if not one.is_active:
            raise FabricError("deactivate", IN_USE)
        self._partitions[partition] = replace(one, is_active=False)

    def close(self) -> None:
        self.calls["close"] += 1

    def _find(self, partition: int) -> ListedPartition:
        if partition not in self._partitions:
            raise FabricError("partition", BAD_PARAM)
        return self._partitions[partition]

    def _enter(self, call: str) -> None:
        self.calls[call] += 1
        if self.faults.get(call):
            raise FabricError(call, self.faults[call].popleft())
