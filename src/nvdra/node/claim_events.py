"""Kubernetes Events about claims: refusals, rollbacks and repairs, for people who look at a claim.

Events are a courtesy: they are written one after the other by a task of their own, a repetition only raises the count
of the first one, and one that the API server does not take is dropped.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from nvdra import telemetry
from nvdra.kube import DRA_GROUP, ResourceApi
from nvdra.node.hooks import Report
from nvdra.ports import ApiError, Clock, Resource

EVENTS = Resource("", "v1", "events", namespaced=True)

# How often the count of a repeated event is written.
COUNT_EVERY_S = 60.0
# Events remembered for their repetitions, and reports that wait to be written.
_KNOWN = 512
_WAITING = 256
_MOST_TEXT = 1024  # bytes of an event's message that the API server takes
_MOST_NAME = 220


@dataclass(slots=True)
class _Known:
    """An event that was written."""

    name: str
    count: int
    written_at: float


class ClaimEvents:
    """Writes reports as Events of the claims.

    driver, node   whom events are from
    """

    def __init__(self, api: ResourceApi, clock: Clock, driver: str, node: str) -> None:
        self._api = api
        self._clock = clock
        self._driver = driver
        self._node = node
        self._waiting: deque[Report] = deque(maxlen=_WAITING)
        self._known: OrderedDict[Report, _Known] = OrderedDict()
        self._wake = asyncio.Event()
        self._made = 0
        self._is_forbidden = False

    def report(self, report: Report) -> None:
        """Take a report; the oldest one is dropped if too many wait."""
        if report.claim.name:
            self._waiting.append(report)
            self._wake.set()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._write(self._waiting.popleft())

    async def _write(self, report: Report) -> None:
        try:
            known = self._known.get(report)
            if known is None or not await self._count(report, known):
                await self._create(report)
        except ApiError as error:
            self._dropped(report, error)
        except Exception as error:  # an odd answer ends neither this task nor the program
            telemetry.error("Writing an Event failed unexpectedly", error, claim=str(report.claim))

    async def _count(self, report: Report, known: _Known) -> bool:
        """Raise the count of an event; False if it is gone. Raises ApiError."""
        known.count += 1
        self._known.move_to_end(report)
        if self._clock.now() - known.written_at < COUNT_EVERY_S:
            return True
        known.written_at = self._clock.now()
        body = {"count": known.count, "lastTimestamp": self._now()}
        try:
            await self._api.kube.patch(EVENTS, known.name, orjson.dumps(body), report.claim.namespace)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    async def _create(self, report: Report) -> None:
        name = self._name(report)
        self._known[report] = _Known(name, 1, self._clock.now())
        self._known.move_to_end(report)
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        body = await self._body(report, name)
        await self._api.kube.create(EVENTS, orjson.dumps(body), report.claim.namespace)

    async def _body(self, report: Report, name: str) -> dict[str, Any]:
        claim, now = report.claim, self._now()
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": claim.namespace},
            "involvedObject": {
                "apiVersion": f"{DRA_GROUP}/{await self._api.version()}",
                "kind": "ResourceClaim",
                "namespace": claim.namespace,
                "name": claim.name,
                "uid": claim.uid,
            },
            "reason": report.reason,
            "message": _clip(report.text),
            "type": "Warning" if report.is_warning else "Normal",
            "source": {"component": self._driver, "host": self._node},
            "reportingComponent": self._driver,
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }

    def _name(self, report: Report) -> str:
        """Unique over instances and restarts, as other components name theirs."""
        self._made += 1
        own = f"{int(self._clock.wall() * 1e6):x}{os.getpid():x}{self._made:x}"
        return f"{report.claim.name[:_MOST_NAME].rstrip('-.')}.{own}"

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _dropped(self, report: Report, error: ApiError) -> None:
        if error.status == 403 and not self._is_forbidden:
            self._is_forbidden = True
            telemetry.warning(
                "Events about claims are refused; the driver needs the verbs create and patch on events",
                cause=error.message,
            )
        else:
            telemetry.info(2, "Dropped an Event", claim=str(report.claim), reason=report.reason, cause=error.message)


def _clip(text: str) -> str:
    """The text, as long as the API server takes it."""
    return text if len(text.encode()) <= _MOST_TEXT else text.encode()[: _MOST_TEXT - 3].decode(errors="ignore") + "..."
