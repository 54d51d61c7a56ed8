"""Who holds device nodes: one look at all processes, however many claims ask at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

Numbers = tuple[int, int]
"""Major and minor of a device node."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look found.

    holders       (device, its holder in words: process, container, pod)
    blind_spots   what could not be seen, as clauses for people
    """

    holders: tuple[tuple[Numbers, str], ...] = ()
    blind_spots: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = ", ".join(dict.fromkeys(words for _, words in self.holders))
        return f"{words} ({'; '.join(self.blind_spots)})" if self.blind_spots else words


Look = Callable[[frozenset[Numbers]], Awaitable[Seen]]
"""One look at all processes of the node. Raises OSError."""


class SharedLook:
    """Looks for several callers at once: those that come while a look is under way share the next one."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._wanted: set[Numbers] = set()
        self._next: asyncio.Task[Seen] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def holders(self, numbers: Iterable[Numbers]) -> Seen:
        """Processes that hold one of these devices now. Raises OSError."""
        mine = frozenset(numbers)
        if not mine:
            return Seen()
        self._wanted |= mine
        if self._next is None:
            self._next = asyncio.create_task(self._run(), name="holders")
        seen = await asyncio.shield(self._next)
        return Seen(tuple(each for each in seen.holders if each[0] in mine), seen.blind_spots)

    async def _run(self) -> Seen:
        async with self._one_at_a_time:
            await asyncio.sleep(0)  # callers of this turn of the loop share it
            wanted, self._wanted, self._next = frozenset(self._wanted), set(), None
            return await self._look(wanted)
