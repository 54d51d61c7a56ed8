"""A running watch of FakeKube: which changes concern it, and those it has not handed out yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Literal

from nvdra.ports import ApiError, Event
from nvdra.testing.objects import Happened, Kind, Stored, seen
from nvdra.testing.selectors import Matcher


class Watch:
    """One client's view of one kind."""

    def __init__(
        self,
        render: Callable[[Kind, str, Stored], bytes],
        kind: Kind,
        version: str,
        namespace: str,
        fields: Matcher,
        labels: Matcher,
    ) -> None:
        self.kind = kind
        self.version = version
        self._render = render
        self._namespace = namespace
        self._fields, self._labels = fields, labels
        self._queue: asyncio.Queue[Event | ApiError | None] = asyncio.Queue()

    def tell(self, happened: Happened) -> None:
        """An object that comes into a selection is added for this watch, one that leaves it deleted."""
        if (happened.kind.group, happened.kind.plural) != (self.kind.group, self.kind.plural):
            return
        stored = happened.stored
        was = happened.before is not None and self._selects(happened.before)
        now = happened.type != "DELETED" and self._selects(stored)
        type: Literal["ADDED", "MODIFIED", "DELETED"]
        if now:
            type = "MODIFIED" if was else "ADDED"
        elif was:
            type = "DELETED"
        else:
            return
        self.put(Event(type, self._render(self.kind, self.version, stored)))

    def _selects(self, stored: Stored) -> bool:
        if self._namespace and stored.metadata.get("namespace") != self._namespace:
            return False
        return self._labels(stored.metadata) and self._fields(seen(stored))

    def put(self, event: Event) -> None:
        self._queue.put_nowait(event)

    def end(self, error: ApiError | None) -> None:
        self._queue.put_nowait(error)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            event = await self._queue.get()
            if event is None:
                return
            if isinstance(event, ApiError):
                raise event
            yield event
