"""`status.devices` of claims: tells users on the API which hardware a prepared claim has.

Written by server-side apply after the claim was prepared, never in its way: a claim's entry in the checkpoint changes,
and a task of its own writes what is missing. Only this driver's entries are written, without force. The API server
removes them together with the allocation.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from nvdra import claims, telemetry
from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint, Entry, PreparedDevice
from nvdra.kube import DRA_GROUP, ResourceApi, pause_s
from nvdra.ports import ApiError, Clock

# A refusal that only an administrator can lift.
_FORBIDDEN_PAUSE_S = 300.0
_RIGHTS = (
    "; the driver needs the verbs patch on resourceclaims/status and associated-node:patch on resourceclaims/driver"
)
# Refusals that hold for this claim as it is: it is gone or another one, not allocated any more, or another manager has
# entries of this driver.
_FINAL = frozenset((404, 409, 422))


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a claim's status is to say. `devices` is JSON."""

    claim: ClaimRef
    devices: bytes


@dataclass(frozen=True, slots=True)
class _Failure:
    """A write that is to be repeated."""

    count: int
    not_before: float


class ClaimStatus:
    """Keeps `status.devices` of this node's prepared claims as the checkpoint says.

    describe   the data of one device, as `Hooks.describe`
    """

    def __init__(
        self,
        api: ResourceApi,
        clock: Clock,
        driver: str,
        describe: Callable[[PreparedDevice], Mapping[str, Any]],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._clock = clock
        self._driver = driver
        self._describe = describe
        self._jitter = jitter
        self._wanted: dict[str, _Wish] = {}
        self._written: dict[str, _Wish] = {}
        self._failures: dict[str, _Failure] = {}
        self._refusals: set[str] = set()
        self._is_kept = True
        self._wake = asyncio.Event()

    def checkpoint_changed(self, checkpoint: Checkpoint) -> None:
        """Other claims may be prepared."""
        self._wanted = {
            uid: _Wish(ClaimRef(entry.namespace, entry.name, uid), self._devices(entry))
            for uid, entry in checkpoint.entries.items()
            if entry.state == "PrepareCompleted" and entry.name
        }
        for known in (self._written, self._failures):
            for uid in known.keys() - self._wanted.keys():
                del known[uid]
        self._wake.set()

    async def run(self) -> None:
        """Write for ever, one claim at a time."""
        while True:
            self._wake.clear()
            now = self._clock.now()
            open_ones = [uid for uid, wish in self._wanted.items() if self._written.get(uid) != wish and self._is_kept]
            due = {uid: self._failures[uid].not_before if uid in self._failures else now for uid in open_ones}
            if uid := next((uid for uid in open_ones if due[uid] <= now), ""):
                await self._write(uid, self._wanted[uid])
            elif due:
                try:
                    async with self._clock.deadline(min(due.values()) - now):
                        await self._wake.wait()
                except TimeoutError:
                    pass
            else:
                await self._wake.wait()

    def _devices(self, entry: Entry) -> bytes:
        """A device that several requests of the claim have is listed once: the API server takes no more."""
        found = {(device.pool, device.device, device.share_id): device for device in claims.answers(entry)}
        return orjson.dumps(
            [
                {
                    "driver": self._driver,
                    "pool": pool,
                    "device": name,
                    **({} if share_id is None else {"shareID": share_id}),
                    "data": dict(self._describe(device)),
                }
                for (pool, name, share_id), device in found.items()
            ]
        )

    async def _write(self, uid: str, wish: _Wish) -> None:
        claim = wish.claim
        try:
            resource = await self._api.resource("resourceclaims")
            body = {
                "apiVersion": f"{DRA_GROUP}/{resource.version}",
                "kind": "ResourceClaim",
                "metadata": {"name": claim.name, "namespace": claim.namespace, "uid": uid},
                "status": {"devices": orjson.Fragment(wish.devices)},
            }
            stored = await self._api.kube.apply(
                resource, claim.name, orjson.dumps(body), claim.namespace, manager=self._driver, subresource="status"
            )
        except ApiError as error:
            self._refused(uid, wish, error)
            return
        except Exception as error:  # an odd answer ends neither this task nor the program
            telemetry.error("Writing the status of a claim failed unexpectedly", error, claim=str(claim))
            self._written[uid] = wish
            return
        self._written[uid] = wish
        self._failures.pop(uid, None)
        self._look_whether_kept(stored, wish)

    def _refused(self, uid: str, wish: _Wish, error: ApiError) -> None:
        claim = str(wish.claim)
        if error.status in _FINAL and not self._api.forget(error):
            telemetry.info(1, "The devices of a claim are not shown in its status", claim=claim, cause=error.message)
            self._written[uid] = wish
            self._failures.pop(uid, None)
            return
        count = self._failures[uid].count + 1 if uid in self._failures else 1
        wait_s = _FORBIDDEN_PAUSE_S if error.status == 403 else pause_s(count, self._jitter(), error.retry_after_s)
        self._failures[uid] = _Failure(count, self._clock.now() + wait_s)
        kind = f"{error.status} {error.reason}"
        if kind not in self._refusals:
            self._refusals.add(kind)
            needed = _RIGHTS if error.status == 403 else ""
            telemetry.warning(
                f"Could not write the devices of a claim into its status, trying again{needed}",
                claim=claim,
                cause=error.message,
                retry_s=round(wait_s, 1),
            )

    def _look_whether_kept(self, stored: bytes, wish: _Wish) -> None:
        try:
            devices = (orjson.loads(stored).get("status") or {}).get("devices") or ()
        except (ValueError, AttributeError):
            return
        if wish.devices != b"[]" and not any(device.get("driver") == self._driver for device in devices):
            self._is_kept = False
            telemetry.warning(
                "The API server does not keep status.devices of claims (its feature gate DRAResourceClaimDeviceStatus "
                "is off): no more are written"
            )
