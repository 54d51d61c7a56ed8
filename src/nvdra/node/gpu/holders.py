"""Who holds device nodes: one look at all processes, however many claims ask at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from nvdra.host import Holder, find_holders, host_proc
from nvdra.ports import Clock, Device, Host


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look found.

    holders       (device, its holder in words: process, container, pod)
    blind_spots   what could not be seen, as clauses for people
    """

    holders: tuple[tuple[Device, str], ...] = ()
    blind_spots: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = ", ".join(dict.fromkeys(words for _, words in self.holders))
        return f"{words} ({'; '.join(self.blind_spots)})" if self.blind_spots else words


Look = Callable[[frozenset[Device]], Awaitable[Seen]]
"""One look at all processes of the node. Raises OSError."""


def look_on_host(host: Host, host_root: str) -> Look:
    """Looks through the processes of the host.

    host_root   the host's root as this program sees it: its proc shows all processes, without hostPID too
    """

    async def look(numbers: frozenset[Device]) -> Seen:
        by_name = {f"{major}:{minor}": (major, minor) for major, minor in numbers}
        found = await find_holders(host, by_name, proc=host_proc(host, (host_root,)))
        return Seen(tuple((by_name[each.gpu], _words(each)) for each in found.holders), found.blind_spots)

    return look


def _words(holder: Holder) -> str:
    return f"{holder} of pod {holder.owner.pod_uid}" if holder.owner.pod_uid else str(holder)


class SharedLook:
    """Looks for several callers at once: those that come while a look is under way share the next one."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._wanted: set[Device] = set()
        self._next: asyncio.Task[Seen] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._ticking: dict[float, asyncio.Future[None]] = {}

    async def holders(self, numbers: Iterable[Device]) -> Seen:
        """Processes that hold one of these devices now. Raises OSError."""
        mine = frozenset(numbers)
        if not mine:
            return Seen()
        self._wanted |= mine
        if self._next is None:
            self._next = asyncio.create_task(self._run(), name="holders")
        seen = await asyncio.shield(self._next)
        return Seen(tuple(each for each in seen.holders if each[0] in mine), seen.blind_spots)

    async def wait(self, clock: Clock, seconds: float) -> None:
        """Wait for at most this time, and wake together with all who wait likewise, so that they share a look."""
        ticking = self._ticking.get(seconds)
        if ticking is None or ticking.done():
            ticking = self._ticking[seconds] = asyncio.ensure_future(clock.sleep(seconds))
        await asyncio.shield(ticking)

    async def _run(self) -> Seen:
        async with self._one_at_a_time:
            await asyncio.sleep(0)  # callers of this turn of the loop share it
            wanted, self._wanted, self._next = frozenset(self._wanted), set(), None
            return await self._look(wanted)
