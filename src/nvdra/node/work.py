"""Claims whose steps this program is running: conflicting claims wait for them instead of rolling them back."""

from __future__ import annotations

import asyncio


class WorkRegistry:
    """UIDs of claims from before their entry says `PrepareStarted` until their steps are over. One loop uses it."""

    def __init__(self) -> None:
        self._work: dict[str, asyncio.Event] = {}

    @property
    def claims(self) -> frozenset[str]:
        return frozenset(self._work)

    def begin(self, claim: str) -> None:
        self._work.setdefault(claim, asyncio.Event())

    def end(self, claim: str) -> None:
        if (over := self._work.pop(claim, None)) is not None:
            over.set()

    async def until_done(self, claim: str) -> None:
        """Return when the claim's steps are over; at once if none run."""
        if (over := self._work.get(claim)) is not None:
            await over.wait()
