"""Leader election by a Lease, with the rules and times of client-go: one replica acts, the others stand by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from nvdra import telemetry
from nvdra.api.objects import mapping, meta_of, text, whole
from nvdra.controller.settings import LEASES
from nvdra.kube import document
from nvdra.ports import ApiError, Clock, Kube


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Which Lease, and its times in seconds."""

    namespace: str
    name: str
    identity: str
    duration_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0


class Election:
    """One candidate. Others' clocks do not matter: a lease is old when it did not change for its duration here."""

    def __init__(self, kube: Kube, clock: Clock, settings: LeaseSettings) -> None:
        self._kube, self._clock, self._settings = kube, clock, settings
        self._seen: Mapping[str, Any] = {}
        self._seen_at = clock.now()
        self._holder = ""

    async def acquire(self) -> None:
        """Return when this candidate holds the lease."""
        telemetry.info(0, "Waiting to become leader", lease=self._name, identity=self._settings.identity)
        while not await self._try(self._settings.renew_s):
            await self._clock.sleep(self._settings.retry_s)
        telemetry.info(0, "Became leader", lease=self._name, identity=self._settings.identity)

    async def hold(self) -> None:
        """Renew the lease; return when it is lost, and always before another candidate may take it."""
        renewed_at = self._clock.now()
        while (left_s := renewed_at + self._settings.renew_s - self._clock.now()) > 0:
            await self._clock.sleep(min(self._settings.retry_s, left_s))
            began = self._clock.now()
            if await self._try(max(renewed_at + self._settings.renew_s - began, 0.0)):
                renewed_at = began
            elif self._holder not in ("", self._settings.identity):
                break
        telemetry.warning("Lost the leader's lease", lease=self._name, holder=self._holder)

    async def release(self) -> None:
        """Let the next candidate take the lease at once."""
        if self._holder != self._settings.identity:
            return
        try:
            thing = document(await self._kube.get(LEASES, self._settings.name, self._settings.namespace))
            if text(mapping(thing, "spec"), "holderIdentity") == self._settings.identity:
                spec = {
                    **mapping(thing, "spec"),
                    "holderIdentity": "",
                    "leaseDurationSeconds": 1,
                    "renewTime": self._now(),
                }
                await self._update(thing, spec)
                telemetry.info(0, "Released the leader's lease", lease=self._name)
        except ApiError as error:
            telemetry.warning("Could not release the leader's lease", lease=self._name, cause=str(error))

    @property
    def _name(self) -> str:
        return f"{self._settings.namespace}/{self._settings.name}"

    async def _try(self, within_s: float) -> bool:
        """Whether this candidate holds the lease, after one attempt to take or to renew it."""
        try:
            async with self._clock.deadline(within_s):
                return await self._attempt()
        except TimeoutError:
            telemetry.warning("Could not reach the leader's lease in time", lease=self._name)
        except ApiError as error:
            level = 4 if error.status == 409 else 0
            telemetry.info(level, "Could not take or renew the leader's lease", lease=self._name, cause=str(error))
        return False

    async def _attempt(self) -> bool:
        me, now = self._settings.identity, self._clock.now()
        try:
            thing = document(await self._kube.get(LEASES, self._settings.name, self._settings.namespace))
        except ApiError as error:
            if not error.is_missing(LEASES.plural, self._settings.name):
                raise
            await self._create()
            self._holder = me
            return True
        spec = mapping(thing, "spec")
        if spec != self._seen:
            self._seen, self._seen_at = spec, now
        holder = self._holder = text(spec, "holderIdentity")
        lasts_s = float(whole(spec, "leaseDurationSeconds", 1))
        if holder not in ("", me) and now < self._seen_at + lasts_s:
            return False
        taken = {"acquireTime": self._now(), "leaseTransitions": whole(spec, "leaseTransitions") + 1}
        changes = {} if holder == me else taken
        await self._update(thing, {**spec, **self._mine(), **changes})
        self._holder = me
        return True

    async def _create(self) -> None:
        metadata = {"name": self._settings.name, "namespace": self._settings.namespace}
        spec = {**self._mine(), "acquireTime": self._now(), "leaseTransitions": 0}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        await self._kube.create(LEASES, orjson.dumps(body), self._settings.namespace)

    async def _update(self, thing: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        metadata = {"name": self._settings.name, "namespace": self._settings.namespace}
        metadata |= {"resourceVersion": meta_of(thing).resource_version}
        body = {**thing, "metadata": {**mapping(thing, "metadata"), **metadata}, "spec": spec}
        raw = await self._kube.update(LEASES, self._settings.name, orjson.dumps(body), self._settings.namespace)
        self._seen, self._seen_at = mapping(document(raw), "spec"), self._clock.now()

    def _mine(self) -> dict[str, Any]:
        seconds = int(self._settings.duration_s)
        return {"holderIdentity": self._settings.identity, "leaseDurationSeconds": seconds, "renewTime": self._now()}

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
