"""The faults of a node's GPUs: how they are raised, how they end, and which stay until an administrator clears them.

Times are seconds of a clock that runs on from process to process until the node is booted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from nvdra.gpu.health import RECOVERY_ACTION, UNMONITORED, Fault, Target, is_worse, needs_recovery

# A fault that keeps a device from being allocated stays at least so long after its last event; others this long.
NO_SCHEDULE_S = 60.0
INFORMATION_S = 10.0
# A fault that is raised so often within this time is not cleared by itself any more.
FLAPS = 3
FLAP_S = 3600.0

Key = tuple[Target, str]


@dataclass(frozen=True, slots=True)
class Raised:
    """A fault with the time of its last event."""

    fault: Fault
    seen_s: float


@dataclass(frozen=True, slots=True)
class Look:
    """What NVML said of a GPU that answers.

    action   its recovery action; None if NVML cannot tell
    links    NVLinks that are up
    """

    action: int | None = None
    links: int = 0


_NONE: Mapping[Key, Raised] = MappingProxyType({})
_NEVER: Mapping[Key, tuple[float, ...]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Health:
    """The faults of a node now.

    faults   by target and taint key: the worst one
    flaps    when the last ones that keep a device from being allocated were raised, at most FLAPS, ascending
    """

    faults: Mapping[Key, Raised] = field(default_factory=lambda: _NONE)
    flaps: Mapping[Key, tuple[float, ...]] = field(default_factory=lambda: _NEVER)

    def raised(self, fault: Fault, now_s: float) -> Health:
        """With the fault. A worse one of the same key stays; of equal ones, the last counts."""
        key = (fault.target, fault.key)
        before = self.faults.get(key)
        if before is not None and is_worse(before.fault, fault):
            fault = before.fault
        flaps = self.flaps
        is_new = before is None or is_worse(fault, before.fault)
        if is_new and fault.effect != "None":
            flaps = {**flaps, key: (*flaps.get(key, ()), now_s)[-FLAPS:]}
        return Health({**self.faults, key: Raised(fault, now_s)}, flaps)

    def looked_at(self, address: str, look: Look, now_s: float) -> Health:
        """After a look at a GPU that answered: faults that are over are gone, a needed recovery is a fault."""
        kept = {
            key: raised
            for key, raised in self.faults.items()
            if key[0].address != address or not self._is_over(key, raised, look, now_s)
        }
        seen = self if len(kept) == len(self.faults) else replace(self, faults=kept)
        if not look.action:
            return seen
        fault = needs_recovery(address, look.action)
        known = seen.faults.get((fault.target, RECOVERY_ACTION))
        return seen if known is not None and known.fault == fault else seen.raised(fault, now_s)

    def monitored(self, address: str) -> Health:
        """Events of the GPU are received again."""
        return self._without(lambda key: key == (Target(address), UNMONITORED))

    def cleared(self, is_meant: Callable[[Target], bool]) -> Health:
        """Without the faults of these targets, and without the memory of earlier ones."""
        left = self._without(lambda key: is_meant(key[0]))
        return replace(left, flaps={key: times for key, times in left.flaps.items() if not is_meant(key[0])})

    def is_held(self, key: Key) -> bool:
        """Whether the fault came back too often: only an administrator clears it."""
        times = self.flaps.get(key, ())
        return len(times) >= FLAPS and times[-1] - times[-FLAPS] <= FLAP_S

    def of_gpu(self, address: str) -> tuple[Fault, ...]:
        return tuple(raised.fault for key, raised in self.faults.items() if key[0].address == address)

    @property
    def addresses(self) -> frozenset[str]:
        """GPUs with faults."""
        return frozenset(target.address for target, _ in self.faults)

    def _without(self, is_gone: Callable[[Key], bool]) -> Health:
        kept = {key: raised for key, raised in self.faults.items() if not is_gone(key)}
        return self if len(kept) == len(self.faults) else replace(self, faults=kept)

    def _is_over(self, key: Key, raised: Raised, look: Look, now_s: float) -> bool:
        age_s, fault = now_s - raised.seen_s, raised.fault
        if fault.key == UNMONITORED:
            return False  # ends with the first successful registration
        if fault.effect == "None":
            return age_s >= INFORMATION_S and not look.action
        return (
            age_s >= NO_SCHEDULE_S
            and look.action == 0  # None, unreadable: it stays
            and look.links >= fault.links
            and not self.is_held(key)
        )
