"""Kubernetes Events about ComputeDomains: the same one is not written again and again, but counted."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from nvdra import telemetry
from nvdra.api.compute_domain import GROUP_VERSION
from nvdra.api.objects import Meta
from nvdra.controller.settings import EVENTS
from nvdra.kube import document
from nvdra.ports import ApiError, Clock, Kube

_REPEAT_S = 300.0  # the same Event is written again after this time, with its count
_KEPT = 500
_LONGEST = 1024  # the API server refuses longer messages


@dataclass(slots=True)
class _Told:
    name: str
    count: int
    at: float


class Events:
    """Writes Events. An Event that cannot be written is lost: nothing else depends on it."""

    def __init__(self, kube: Kube, clock: Clock, component: str, instance: str = "") -> None:
        self._kube, self._clock = kube, clock
        self._component, self._instance = component, instance
        self._told: OrderedDict[tuple[str, str, str], _Told] = OrderedDict()

    async def tell(self, domain: Meta, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Write an Event about a ComputeDomain, unless the same one was written a short time ago."""
        message = message if len(message) <= _LONGEST else f"{message[: _LONGEST - 1]}…"
        key = (domain.uid, reason, message)
        told = self._told.get(key)
        now = self._clock.now()
        if told is not None:
            told.count += 1
            if now - told.at < _REPEAT_S:
                return
            told.at = now
        time = datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            if told is not None and told.name:
                body = {"count": told.count, "lastTimestamp": time}
                await self._kube.patch(EVENTS, told.name, orjson.dumps(body), domain.namespace)
                return
            body = self._event(domain, kind, reason, message, time)
            made = document(await self._kube.create(EVENTS, orjson.dumps(body), domain.namespace))
            self._remember(key, _Told(str(made["metadata"]["name"]), 1, now))
        except ApiError as error:
            self._remember(key, _Told("", 1, now))
            telemetry.info(1, "Could not write an Event", reason=reason, domain=str(domain), cause=str(error))

    def _event(self, domain: Meta, kind: str, reason: str, message: str, time: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{domain.name[:200]}.", "namespace": domain.namespace},
            "involvedObject": {
                "apiVersion": GROUP_VERSION,
                "kind": "ComputeDomain",
                "name": domain.name,
                "namespace": domain.namespace,
                "uid": domain.uid,
            },
            "reason": reason,
            "message": message,
            "type": kind,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        }

    def _remember(self, key: tuple[str, str, str], told: _Told) -> None:
        self._told[key] = told
        while len(self._told) > _KEPT:
            self._told.popitem(last=False)
